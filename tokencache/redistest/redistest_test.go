package redistest_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/weirhq/weir/tokencache/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestServer(t *testing.T) {
	server := redistest.Start(t)
	options, err := redis.ParseURL(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	if options.Addr != server.Addr() {
		t.Errorf("URL() = %q does not name Addr() %q", server.URL(), server.Addr())
	}
	ping := func(ctx context.Context) error {
		client := redis.NewClient(&redis.Options{Addr: server.Addr(), ContextTimeoutEnabled: true, MaxRetries: -1, DialerRetries: 1})
		defer client.Close()
		return client.Ping(ctx).Err()
	}

	if err := ping(t.Context()); err != nil {
		t.Errorf("started: %v", err)
	}

	server.Pause()
	frozen, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := ping(frozen); err == nil {
		t.Error("frozen: the server answered")
	}
	server.Resume()
	if err := ping(t.Context()); err != nil {
		t.Errorf("resumed: %v", err)
	}

	server.Stop()
	if err := ping(t.Context()); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("stopped: error %v, want a refused connection", err)
	}
	server.Stop() // does nothing

	address := server.Addr()
	server.Restart()
	if server.Addr() != address {
		t.Errorf("restarted on %s, want %s", server.Addr(), address)
	}
	if err := ping(t.Context()); err != nil {
		t.Errorf("restarted: %v", err)
	}

	server.Pause() // a frozen server, too, ends with the test
}
