package app

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/weirhq/weir/internal/episode"
	"github.com/weirhq/weir/internal/shortage"
)

const (
	// stallTimeout ends an answer of which the client accepts no byte. It is longer than
	// the pauses of a client that unpacks one layer while it fetches the next.
	stallTimeout = 5 * time.Minute
	// stallStep is how long one write waits before it looks for progress. An answer may take
	// so much longer than stallTimeout to be ended.
	stallStep = 15 * time.Second
	// bodyTimeout is how long a client may take for the body of a request. Only the form of
	// a login is read at all, and clients send it in one piece.
	bodyTimeout = 10 * time.Second
	// acceptCalm is how long connections have to be accepted before the log calls a
	// shortage over.
	acceptCalm = 10 * time.Second
	// maxStreams is the largest number of requests under way on one HTTP/2 connection:
	// the least that RFC 9113 section 6.5.2 recommends.
	maxStreams = 100
)

// stallListener ends the connections of clients that accept no byte of an answer.
type stallListener struct {
	net.Listener
	timeout time.Duration
	step    time.Duration // of the looks for progress
	lacking *episode.Episode
	logger  *slog.Logger
}

func newStallListener(l net.Listener, logger *slog.Logger) stallListener {
	return stallListener{l, stallTimeout, stallStep, episode.New(acceptCalm, func() { logger.Info("connections of clients are accepted again") }), logger}
}

func (l stallListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		// http.Server tries again, and says so at the level debug only.
		if shortage.Of(err) != nil && l.lacking.Bad() {
			l.logger.Error("cannot accept connections of clients", "error", err)
		}
		return nil, err
	}
	l.lacking.Good()
	return &stallConn{Conn: conn, timeout: l.timeout, step: l.step}, nil
}

// stallConn is a connection whose writes fail once the client has accepted no byte for
// the timeout. A slow client has no limit: http.Server's WriteTimeout would cut its
// large answers.
type stallConn struct {
	net.Conn
	timeout, step time.Duration

	mu    sync.Mutex // held for the fields below, and while the connection's deadline is set
	limit time.Time  // of the layer above, such as TLS for its farewell; zero: none
	armed time.Time  // the deadline that the last attempt has set; zero: another one is in force
}

// SetWriteDeadline sets a limit that is independent of the timeout.
func (c *stallConn) SetWriteDeadline(t time.Time) error {
	return c.bound(t, c.Conn.SetWriteDeadline)
}

// SetDeadline sets the limit for reads and writes.
func (c *stallConn) SetDeadline(t time.Time) error {
	return c.bound(t, c.Conn.SetDeadline)
}

func (c *stallConn) bound(limit time.Time, set func(time.Time) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limit, c.armed = limit, time.Time{}
	return set(limit)
}

// arm sets the deadline of one attempt to write, and reports whether it is the limit. The
// deadline of an earlier attempt stays if half a step of it is left: to set one costs more
// than the rest of a short write. The attempt is shorter then, and the timeout is not, since
// it is measured from the last progress.
func (c *stallConn) arm(now time.Time) (last bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	deadline := now.Add(c.step)
	if !c.limit.IsZero() && c.limit.Before(deadline) {
		c.armed = time.Time{}
		return true, c.Conn.SetWriteDeadline(c.limit)
	}
	if c.armed.Sub(now) >= c.step/2 {
		return false, nil
	}
	c.armed = deadline
	return false, c.Conn.SetWriteDeadline(deadline)
}

func (c *stallConn) Write(p []byte) (int, error) {
	sent := 0
	_, err := c.persist(func() (int64, error) {
		n, err := c.Conn.Write(p[sent:])
		sent += n
		return int64(n), err
	})
	return sent, err
}

// ReadFrom lets the kernel send a file, as net/http asks for.
func (c *stallConn) ReadFrom(src io.Reader) (int64, error) {
	to, ok := c.Conn.(io.ReaderFrom)
	part, limited := src.(*io.LimitedReader)
	if !ok || !limited || !isFile(part.R) {
		return io.Copy(struct{ io.Writer }{c}, src)
	}
	return c.persist(func() (int64, error) {
		before := part.N
		n, err := to.ReadFrom(part)
		// The kernel is not even asked if the deadline was over at once, such as after the
		// machine was suspended. A copy in user space then has read bytes that were not sent.
		if unsent := before - n - part.N; unsent > 0 && errors.Is(err, os.ErrDeadlineExceeded) {
			if back := rewind(part, unsent); back != nil {
				err = back
			}
		}
		return n, err
	})
}

// rewind makes a file be read again from some bytes before.
func rewind(part *io.LimitedReader, bytes int64) error {
	file, ok := part.R.(io.Seeker)
	if !ok {
		return io.ErrShortWrite
	}
	_, err := file.Seek(-bytes, io.SeekCurrent)
	part.N += bytes
	return err
}

// isFile reports whether the kernel can read content by itself.
func isFile(content io.Reader) bool {
	_, ok := content.(syscall.Conn)
	return ok
}

// persist repeats a write that continues where it stopped, as long as there is progress.
func (c *stallConn) persist(write func() (int64, error)) (sent int64, err error) {
	now := time.Now()
	progress := now
	for {
		last, err := c.arm(now)
		if err != nil {
			return sent, err
		}
		n, err := write()
		sent += n
		if !errors.Is(err, os.ErrDeadlineExceeded) || last {
			return sent, err
		}
		now = time.Now()
		if n > 0 {
			progress = now
		}
		if now.Sub(progress) >= c.timeout {
			return sent, err
		}
	}
}

// CloseWrite ends the answers, and leaves the client time to read them before the
// connection is reset. http.Server calls it.
func (c *stallConn) CloseWrite() error {
	if conn, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return conn.CloseWrite()
	}
	return nil
}

// endStalledStreams gives each stream of an HTTP/2 connection its stallTimeout. The
// connection itself may be busy: a client can stop one stream by flow control (RFC 9113
// section 5.2).
func endStalledStreams(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor < 2 {
			handler.ServeHTTP(w, r)
			return
		}
		s := &stallStream{ResponseWriter: w, control: http.NewResponseController(w)}
		handler.ServeHTTP(s, r)
		s.bound(time.Now().Add(stallTimeout)) // for the bytes that are buffered
	})
}

// stallStream is the writer of an answer over HTTP/2.
type stallStream struct {
	http.ResponseWriter
	control *http.ResponseController
	limit   time.Time // of the handler; zero: none
}

// SetWriteDeadline sets a limit that is independent of the stallTimeout. http.ResponseController
// calls it.
func (s *stallStream) SetWriteDeadline(t time.Time) error {
	s.limit = t
	return s.control.SetWriteDeadline(t)
}

func (s *stallStream) Write(p []byte) (sent int, err error) {
	const step = 32 << 10
	for {
		part := p[sent:min(len(p), sent+step)]
		s.bound(time.Now().Add(stallTimeout))
		n, err := s.ResponseWriter.Write(part)
		if sent += n; err != nil || sent == len(p) {
			s.bound(time.Time{}) // the next bytes may take long to come
			return sent, err
		}
	}
}

// FlushError sends the bytes that are buffered. http.ResponseController calls it.
func (s *stallStream) FlushError() error {
	s.bound(time.Now().Add(stallTimeout))
	defer s.bound(time.Time{})
	return s.control.Flush()
}

func (s *stallStream) bound(deadline time.Time) {
	if !s.limit.IsZero() && (deadline.IsZero() || s.limit.Before(deadline)) {
		deadline = s.limit
	}
	_ = s.control.SetWriteDeadline(deadline) // every writer of net/http has one
}

// Unwrap lets an http.ResponseController find the methods of the writer.
func (s *stallStream) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// limitBodies gives the bodies of requests their time. Without it, a client without an
// account could hold a connection for ever with a body that it does not send: even if no
// handler reads it, http.Server waits for it before the connection is closed or used again.
func limitBodies(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			control := http.NewResponseController(w)
			_ = control.SetReadDeadline(time.Now().Add(bodyTimeout)) // every connection of net/http has one
			// http.Server looks at the body of its own request. If that is not read to its end, it
			// leaves the client time to read the answer, before the connection is reset.
			r = r.WithContext(r.Context())
			r.Body = &timedBody{r.Body, control}
		}
		// The answer of http.Server itself would wait for a body.
		if r.Method == http.MethodOptions && r.RequestURI == "*" {
			w.Header().Set("Content-Length", "0")
			return
		}
		handler.ServeHTTP(w, r)
	})
}

// timedBody is the body of a request that has to come within the bodyTimeout.
type timedBody struct {
	io.ReadCloser
	control *http.ResponseController
}

func (b *timedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		// From now on http.Server reads in order to notice that the client leaves. The
		// answer may take longer than the body.
		_ = b.control.SetReadDeadline(time.Time{})
	}
	return n, err
}
