package printable

import "net/http"

// The bounds of a client's words in a line of the log, in bytes. Names of the
// distribution-spec fit in; the user agents of clients have about 100 bytes.
const (
	maxMethod    = 16
	maxPath      = 300
	maxUserAgent = 200
)

// Method returns the method of a request, which may be any token of a client.
func Method(r *http.Request) string { return Line(r.Method, maxMethod) }

// Path returns the path of a request.
func Path(r *http.Request) string { return Line(r.URL.Path, maxPath) }

// UserAgent returns the program that a client says it is, or "".
func UserAgent(r *http.Request) string { return Line(r.UserAgent(), maxUserAgent) }
