package soak

import (
	"context"
	"io"
	"net"
)

// slowClients is how many connections begin a request and never finish it.
const slowClients = 4

// dawdle opens connections that begin a header, and counts those that the
// mirror cuts; a mirror that is killed meanwhile does not count.
func (s *soak) dawdle(ctx context.Context) {
	for ctx.Err() == nil {
		s.mirror.awaitUp(ctx)
		before := s.kills.Load()
		if s.dawdleOnce(ctx) && s.kills.Load() == before && ctx.Err() == nil {
			s.score.slow.Add(1)
		}
	}
}

// dawdleOnce reports whether the mirror closed a connection.
func (s *soak) dawdleOnce(ctx context.Context) bool {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.mirror.addr)
	if err != nil {
		return false
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if _, err := io.WriteString(conn, "GET /v2/ HTTP/1.1\r\nHost: weir\r\nX-Slow: "); err != nil {
		return false
	}
	_, _ = io.Copy(io.Discard, conn) // until the mirror has had enough
	return true
}
