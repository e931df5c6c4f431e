package api

// BufferedHeader is sent, with the value "1", by a client that asks for a raw
// stream and reads what comes after the head of the response through the same
// buffer as the head. The engine then begins at once, instead of waiting until the
// head has been read: other clients lose output that comes with it in one read.
const BufferedHeader = "Hull-Buffered"
