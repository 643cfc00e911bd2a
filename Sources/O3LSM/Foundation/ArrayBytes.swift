extension Array where Element == UInt8 {
    /// `withUnsafeBytes` that lets an `EngineError` through as what it is.
    @inline(__always)
    func withEngineBytes<Result>(
        _ body: (UnsafeRawBufferPointer) throws(EngineError) -> Result
    ) throws(EngineError) -> Result {
        let outcome = withUnsafeBytes { bytes -> Swift.Result<Result, EngineError> in
            do throws(EngineError) { return .success(try body(bytes)) } catch { return .failure(error) }
        }
        return try outcome.get()
    }
}
