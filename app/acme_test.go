package app

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tokencache/redistest"
)

// Instances with one Redis share a lock, wherever their data is. Without Redis each goes
// on by itself, and says so.
func TestLocksInRedis(t *testing.T) {
	server := redistest.Start(t)
	var log testutil.LogBuffer
	locks := func() *acmeLocks {
		l := newACMELocks(t.TempDir(), slog.New(slog.NewTextHandler(&log, nil)))
		s := newSharing(t)
		next, err := s.prepare(redisConfig(t, "url = \""+server.URL()+"\"\n"))
		if err != nil {
			t.Fatal(err)
		}
		s.use(next)
		l.redis.Store(next)
		return l
	}
	first, second := locks(), locks()
	if err := first.Lock(t.Context(), "issue"); err != nil {
		t.Fatal(err)
	}
	brief, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := second.Lock(brief, "issue"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("held twice: %v", err)
	}
	if err := second.Lock(t.Context(), "other"); err != nil {
		t.Error(err)
	}
	if err := errors.Join(second.Unlock(t.Context(), "other"), first.Unlock(t.Context(), "issue")); err != nil {
		t.Fatal(err)
	}
	if err := second.Lock(t.Context(), "issue"); err != nil {
		t.Error(err)
	}
	if err := second.Unlock(t.Context(), "issue"); err != nil {
		t.Error(err)
	}
	if text := log.String(); text != "" {
		t.Errorf("the log is\n%s", text)
	}

	// A holder that has died leaves its lock for the rest of its lease.
	client, key := server.Client(t), first.redis.Load().cfg.KeyPrefix+":lock:dead"
	if err := client.Set(t.Context(), key, "a dead holder", lockLease).Err(); err != nil {
		t.Fatal(err)
	}
	brief, cancel = context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := second.Lock(brief, "dead"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("within the lease of a dead holder: %v", err)
	}
	if err := client.PExpire(t.Context(), key, time.Millisecond).Err(); err != nil {
		t.Fatal(err)
	}
	if err := second.Lock(t.Context(), "dead"); err != nil || client.Get(t.Context(), key).Val() == "" {
		t.Errorf("after the lease of a dead holder: %v", err)
	}
	if err := second.Unlock(t.Context(), "dead"); err != nil {
		t.Error(err)
	}

	// Redis hangs, and dies while a lock is held: nothing waits for ever.
	if err := first.Lock(t.Context(), "held"); err != nil {
		t.Error(err)
	}
	server.Pause()
	for range 50 {
		brief, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if err := second.Lock(brief, "soon"); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("for a moment, while Redis hangs: %v", err)
		}
	}
	if err := second.Lock(t.Context(), "issue"); err != nil || log.Count("another instance may request the same one") != 1 {
		t.Errorf("while Redis hangs: %v, the log is\n%s", err, log.String())
	}
	server.Resume()
	server.Stop()
	if err := errors.Join(second.Unlock(t.Context(), "issue"), first.Unlock(t.Context(), "held")); err != nil {
		t.Error(err)
	}
	if err := first.Lock(t.Context(), "issue"); err != nil || log.Count("another instance may request the same one") != 2 {
		t.Errorf("without Redis: %v, the log is\n%s", err, log.String())
	}
	if err := first.Unlock(t.Context(), "issue"); err != nil {
		t.Error(err)
	}
}
