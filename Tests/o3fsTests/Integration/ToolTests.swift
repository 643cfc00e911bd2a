import Foundation
import Testing

/// Every script in `tools` says what it does when it is asked to, and does nothing else then.
@Suite struct ToolTests {
    private static let scripts: [String] = {
        let root = O3FSBinary.packageRoot + "/tools"
        let names = (FileManager.default.enumerator(atPath: root)?.allObjects as? [String]) ?? []
        return names.filter { FileManager.default.isExecutableFile(atPath: "\(root)/\($0)") && $0.contains(".") }.sorted()
    }()

    @Test func thereAreScripts() { #expect(Self.scripts.count > 20) }

    @Test(arguments: scripts) func help(_ script: String) throws {
        let run = try Shell.run(["\(O3FSBinary.packageRoot)/tools/\(script)", "--help"], timeout: 60)
        #expect(run.status == 0, "\(run)")
        let name = script.split(separator: "/").last.map(String.init) ?? script
        #expect(run.output.contains(name) && run.lines.count >= 2, "\(run)")
    }
}
