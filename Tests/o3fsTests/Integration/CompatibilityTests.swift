import Foundation
import Testing

extension MountTests {
    /// Real programs with checks of their own, each in a mount of its own: those of `tools/compat.sh` that take seconds.
    /// The others are run by hand; docs/compatibility.md has their table.
    @Suite struct Compatibility {
        private struct Row: Decodable {
            let program: String
            let result: String
            let reason: String
        }

        @Test(.timeLimit(.minutes(6))) func realProgramsFindNoFault() throws {
            let binary = try #require(O3FSBinary.path)
            let run = try Shell.run(
                ["\(O3FSBinary.packageRoot)/tools/compat.sh", "--quick", "--json"],
                environment: ["O3FS_BINARY": binary],
                timeout: 340
            )
            let rows = try JSONDecoder().decode([Row].self, from: Data(run.output.utf8))
            #expect(rows.count == 6, "\(run)")
            for row in rows {
                #expect(row.result == "ok", "\(row.program): \(row.reason)\n\(run)")
            }
            #expect(run.status == 0, "\(run)")
        }
    }
}
