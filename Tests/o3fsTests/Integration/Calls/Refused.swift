extension Shell {
    /// A shell function for scripts that must see commands fail: `refused COMMAND` ends the script if the command
    /// succeeds (bash does not look at the status of `! COMMAND`), `refused_with TEXT COMMAND` also if its words do
    /// not have the text.
    static let refused = """
        refused() { if "$@" >/dev/null 2>&1; then echo "succeeded: $*" >&2; exit 1; fi; }
        refused_with() {
            text=$1; shift; if words=$("$@" 2>&1); then echo "succeeded: $*" >&2; exit 1; fi
            case "$words" in *"$text"*) ;; *) echo "$*: $words" >&2; exit 1;; esac
        }

        """
}
