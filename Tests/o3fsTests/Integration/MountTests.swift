import Testing

/// Everything that needs a real mount, one test at a time: they measure times and kill daemons.
@Suite(.serialized, .enabled(if: Machine.canMount, needsFUSE))
enum MountTests {}
