package tokencache_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tokencache"
)

// lines counts a log's lines by level.
func lines(log *testutil.LogBuffer) (warnings, infos int) {
	return strings.Count(log.String(), "level=WARN"), strings.Count(log.String(), "level=INFO")
}

func wantLines(t *testing.T, log *testutil.LogBuffer, warnings, infos int) {
	t.Helper()
	if w, i := lines(log); w != warnings || i != infos {
		t.Errorf("%d warnings and %d infos, want %d and %d:\n%s", w, i, warnings, infos, log)
	}
}

// logTo sends a cache's log to a buffer, to be read while nothing runs.
func logTo(log *testutil.LogBuffer) tokencache.Option {
	return tokencache.WithLogger(slog.New(slog.NewTextHandler(log, nil)))
}

func frozen(ctx context.Context, _ operation) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestFrozenStoreCostsOneTimeoutThenNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared, service := newFaultyStore(), &issuer{name: "service"}
		shared.failWith(frozen)
		var log testutil.LogBuffer
		cache := newCache(t, shared, logTo(&log), tokencache.WithAdvice(func(error) string { return "Check Redis and cache.redis.url" }))

		start := time.Now()
		mustToken(t, cache, "first", service)
		if lost := time.Since(start); lost != 250*time.Millisecond {
			t.Errorf("the first call lost %v, want 250ms", lost)
		}
		wantLines(t, &log, 1, 0)
		for _, hint := range []string{"Redis", "cache.redis.url", "context deadline exceeded"} {
			if !strings.Contains(log.String(), hint) {
				t.Errorf("the warning does not say %q: %s", hint, &log)
			}
		}

		start = time.Now()
		for i := range 100 {
			token := mustToken(t, cache, fmt.Sprint(i), service)
			cache.Invalidate(t.Context(), keyFor(fmt.Sprint(i)), token)
		}
		if lost := time.Since(start); lost != 0 {
			t.Errorf("the calls after it lost %v, want nothing", lost)
		}
		shared.wantCalls(t, 1)

		time.Sleep(5 * time.Second)
		start = time.Now()
		mustToken(t, cache, "probe", service)
		mustToken(t, cache, "after the probe", service)
		if lost := time.Since(start); lost != 250*time.Millisecond {
			t.Errorf("the probe lost %v, want 250ms", lost)
		}
		shared.wantCalls(t, 2)
		wantLines(t, &log, 1, 0)

		shared.failWith(nil)
		time.Sleep(5 * time.Second)
		mustToken(t, cache, "second probe", service)
		wantLines(t, &log, 1, 0) // it may be back for this call only
		time.Sleep(10 * time.Second)
		synctest.Wait()
		wantLines(t, &log, 1, 1)
		shared.wantCalls(t, 4) // read and written
	})
}

func TestStoreThatIgnoresItsContextIsAbandoned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared, service := newFaultyStore(), &issuer{name: "service"}
		release := make(chan struct{})
		returned := false
		shared.failWith(func(context.Context, operation) error {
			<-release
			time.Sleep(time.Second)
			returned = true
			return nil
		})
		cache := newCache(t, shared)
		start := time.Now()
		mustToken(t, cache, "a", service)
		if lost := time.Since(start); lost != 250*time.Millisecond {
			t.Errorf("the call lost %v, want 250ms", lost)
		}
		close(release)
		cache.Close()
		if !returned {
			t.Error("Close returned before the abandoned call had")
		}
	})
}

func TestReadAndWriteShareOneBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared, service := newFaultyStore(), &issuer{name: "service"}
		shared.failWith(func(ctx context.Context, op operation) error {
			if op == get {
				time.Sleep(200 * time.Millisecond)
				return nil
			}
			return frozen(ctx, op)
		})
		cache := newCache(t, shared)
		start := time.Now()
		mustToken(t, cache, "a", service)
		if lost := time.Since(start); lost != 250*time.Millisecond {
			t.Errorf("read and write lost %v, want 250ms together", lost)
		}
	})
}

func TestOneProbeAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared, service := newFaultyStore(), &issuer{name: "service"}
		shared.failWith(frozen)
		cache := newCache(t, shared)
		mustToken(t, cache, "first", service)
		time.Sleep(5 * time.Second)
		var group sync.WaitGroup
		for i := range 10 {
			group.Go(func() { mustToken(t, cache, fmt.Sprint(i), service) })
		}
		group.Wait()
		shared.wantCalls(t, 2)
	})
}

func TestTokensOfTheOutageAreSharedWhenNextUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared, service := newFaultyStore(), &issuer{name: "service"}
		shared.failWith(frozen)
		cache := newCache(t, shared)
		mustToken(t, cache, "a", service)

		time.Sleep(5 * time.Second)
		start := time.Now()
		for range 10 {
			wantToken(t, cache, "a", service, "service-1") // starts a probe that fails
		}
		if lost := time.Since(start); lost != 0 {
			t.Errorf("a token from memory waited %v for the probe", lost)
		}
		time.Sleep(time.Second)
		shared.wantCalls(t, 2)

		shared.failWith(nil)
		time.Sleep(5 * time.Second)
		for range 10 {
			wantToken(t, cache, "a", service, "service-1")
		}
		synctest.Wait()
		shared.wantCalls(t, 3)
		wantToken(t, newCache(t, shared), "a", service, "service-1")
		service.wantIssued(t, 1)
	})
}

func TestStoreThatCannotBeWrittenIsNotBackBecauseItCanBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared, service := newFaultyStore(), &issuer{name: "service"}
		shared.failWith(func(_ context.Context, op operation) error {
			if op == get {
				return nil
			}
			return errors.New("OOM command not allowed when used memory > 'maxmemory'")
		})
		var log testutil.LogBuffer
		cache := newCache(t, shared, logTo(&log))
		for i := range 5 {
			mustToken(t, cache, fmt.Sprint(i), service)
			time.Sleep(5 * time.Second)
		}
		wantLines(t, &log, 1, 0)
		shared.failWith(nil)
		mustToken(t, cache, "a", service)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		wantLines(t, &log, 1, 1)
	})
}

func TestCloseDuringACallDoesNotBlameTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared, service := newFaultyStore(), &issuer{name: "service"}
		shared.failWith(frozen)
		var log testutil.LogBuffer
		cache := newCache(t, shared, logTo(&log))
		go cache.Token(t.Context(), keyFor("a"), service.acquire)
		synctest.Wait()
		cache.Close()
		wantLines(t, &log, 0, 0)
	})
}
