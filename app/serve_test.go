package app

import (
	"net/http"
	"testing"
	"time"
)

// Slow and idle clients have limits; a transfer has none, however long it takes.
func TestServerLimits(t *testing.T) {
	s := newServer(http.NotFoundHandler(), discard())
	if s.ReadHeaderTimeout != 10*time.Second || s.IdleTimeout != 2*time.Minute || s.MaxHeaderBytes != 64<<10 {
		t.Errorf("headers within %s and %d bytes, idle connections for %s", s.ReadHeaderTimeout, s.MaxHeaderBytes, s.IdleTimeout)
	}
	if s.ReadTimeout != 0 || s.WriteTimeout != 0 {
		t.Errorf("a transfer ends after %s or %s", s.ReadTimeout, s.WriteTimeout)
	}
	if !s.Protocols.HTTP1() || !s.Protocols.UnencryptedHTTP2() {
		t.Errorf("speaks %s", s.Protocols)
	}
}
