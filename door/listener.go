package door

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirhq/weir/internal/episode"
)

// calm is how long no handshake has to make room until the log calls the crowd over.
const calm = 10 * time.Second

// Listener returns a listener whose connections have finished their handshake with TLS.
// Handshakes are bounded in number, in time and in how many compute at once (hall.go).
// Their failures are logged for debugging only, since scanners cause many. Close ends the
// handshakes that are under way.
func (d *Door) Listener(inner net.Listener, logger *slog.Logger) net.Listener {
	l := &listener{Listener: inner, door: d, logger: logger, ready: make(chan net.Conn), failed: make(chan error), closed: make(chan struct{})}
	l.crowded = episode.New(calm, func() { logger.Info("TLS handshakes are no longer ended to make room") })
	go l.run()
	return l
}

type listener struct {
	net.Listener
	door    *Door
	logger  *slog.Logger
	crowded *episode.Episode
	ready   chan net.Conn // after their handshakes
	failed  chan error    // of the inner listener
	once    sync.Once
	closed  chan struct{}
}

// Accept returns the next connection that has finished its handshake.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case secure := <-l.ready:
		return secure, nil
	case err := <-l.failed:
		return nil, err
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close closes the listener, and ends the handshakes that are under way.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	err := l.Listener.Close()
	l.door.hall.empty(l)
	return err
}

// run accepts connections until the listener is closed. An error waits for the caller of
// Accept, who decides when the next attempt is due.
func (l *listener) run() {
	for {
		inner, err := l.Listener.Accept()
		if err != nil {
			select {
			case l.failed <- err:
				continue
			case <-l.closed:
				return
			}
		}
		entered, expelled := l.door.hall.enter(l, inner)
		l.noteCrowd(expelled)
		if expelled != nil {
			expelled.end()
		}
		if expelled == entered {
			l.door.refused.Add(1)
		} else {
			go l.shake(entered)
		}
		select {
		case <-l.closed: // and the hall may have been emptied before this connection came
			entered.expel()
			return
		default:
		}
	}
}

// noteCrowd logs the start and the end of a time in which handshakes have to make room.
func (l *listener) noteCrowd(expelled *handshake) {
	if expelled == nil {
		l.crowded.Good()
	} else if l.crowded.Bad() {
		l.logger.Warn("too many TLS handshakes are in progress, so the handshakes that have waited longest for their clients are ended. "+
			"Clients that are already connected are still served. Check where the connections come from", "network", expelled.network.String())
	}
}

// shake runs the handshake of one connection.
func (l *listener) shake(s *handshake) {
	c := &conn{Conn: s.conn, handshake: s}
	secure := tls.Server(c, l.door.config)
	err := s.run(secure)
	if !s.leave() {
		err = errExpelled // its connection is closed
	}
	switch {
	case err == nil:
		l.door.completed.Add(1)
	case s.refused:
		l.door.refused.Add(1)
	default:
		l.door.failed.Add(1)
	}
	if err != nil {
		l.logger.Debug("a TLS handshake failed", "client", s.conn.RemoteAddr().String(), "error", err)
		s.conn.Close()
		return
	}
	c.handshake = nil
	select {
	case l.ready <- secure:
	case <-l.closed:
		secure.Close()
	}
}

// run runs the handshake. A panic ends this connection only, as it does in a request:
// untrusted certificates have found faults in their parsers before.
func (s *handshake) run(secure *tls.Conn) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("panic: %v", cause)
		}
	}()
	err = secure.Handshake()
	// The answer is for a user who forgot the s in https.
	if header, ok := errors.AsType[tls.RecordHeaderError](err); ok && header.Conn != nil && speaksHTTP(header.RecordHeader) {
		_, _ = io.WriteString(header.Conn, "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")
	}
	return err
}

// speaksHTTP reports whether the first bytes of a client are those of a request without
// TLS.
func speaksHTTP(first [5]byte) bool {
	return slices.Contains([]string{"GET /", "HEAD ", "POST ", "PUT /", "OPTIO"}, string(first[:]))
}

// conn is a connection below TLS.
type conn struct {
	net.Conn
	handshake *handshake            // nil: it is finished
	probe     atomic.Bool           // the handshake was for a Probe
	admitted  atomic.Pointer[rules] // that the connection was last checked against
}

// Read gives the turn of a handshake away while the client is waited for.
func (c *conn) Read(p []byte) (int, error) {
	if c.handshake == nil {
		return c.Conn.Read(p)
	}
	return c.handshake.outOfTurn(func() (int, error) { return c.Conn.Read(p) })
}

// Write gives it away too: a client may accept no byte.
func (c *conn) Write(p []byte) (int, error) {
	if c.handshake == nil {
		return c.Conn.Write(p)
	}
	return c.handshake.outOfTurn(func() (int, error) { return c.Conn.Write(p) })
}

// outOfTurn does what may wait for the client, and then waits for the next turn.
func (s *handshake) outOfTurn(do func() (int, error)) (int, error) {
	s.pause()
	n, err := do()
	if err == nil {
		err = s.resume()
	}
	return n, err
}
