import Glibc
import Testing

@testable import O3LSM

@Suite struct DescriptorLimitTests {
    @Test func cachesLeaveRoomForTheRest() {
        #expect(DescriptorLimit.tables(within: 1024) == 768)
        #expect(DescriptorLimit.tables(within: 100) == 16)
        #expect(DescriptorLimit.tables(within: .max) > 15_000)
    }

    @Test func theSoftLimitIsRaisedToTheHardOne() async {
        await #expect(processExitsWith: .success) {
            let resource = __rlimit_resource_t(RLIMIT_NOFILE.rawValue)
            var limit = rlimit()
            _ = getrlimit(resource, &limit)
            let hard = limit.rlim_max
            limit.rlim_cur = min(64, hard)
            _ = setrlimit(resource, &limit)
            #expect(DescriptorLimit.tables == 16)
            DescriptorLimit.raise()
            _ = getrlimit(resource, &limit)
            #expect(limit.rlim_cur == hard && limit.rlim_max == hard)
        }
    }
}
