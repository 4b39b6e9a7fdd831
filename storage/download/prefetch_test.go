package download_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/download"
)

// always says that a prefetch is still wanted.
func always() bool { return true }

// prefetch begins a prefetch in the background. Its end is told through the channel.
func (s *setup) prefetch(ctx context.Context, o *origin, repo storage.RepoID) <-chan string {
	ended := make(chan string, 1)
	go func() {
		began, err := s.Prefetch(ctx, digest.FromBytes(o.body), o.source(repo), always)
		ended <- fmt.Sprint(began, err)
	}()
	synctest.Wait()
	return ended
}

// A prefetch has a place only as long as no client's download waits for one, whichever
// namespace that is of, and goes on at its offset.
func TestPrefetchYields(t *testing.T) {
	for name, repo := range map[string]storage.RepoID{"of the same namespace": ours, "of another one": {Namespace: "quay.io", Name: "app"}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSetup(t, func(o *download.Options) { o.MaxFetches = 2 })
				defer s.Close()
				ahead := &origin{body: random(100 << 10), step: make(chan int)}
				ended := s.prefetch(t.Context(), ahead, ours)
				ahead.step <- 40 << 10

				var readers []*download.Reader
				var origins []*origin
				for range 2 {
					o := &origin{body: random(1000), step: make(chan int)}
					r := s.reader(t, t.Context(), digest.FromBytes(o.body), o.source(repo))
					defer r.Close()
					synctest.Wait()
					readers, origins = append(readers, r), append(origins, o)
				}
				// In no time: no client waits for the end of anything.
				for i, o := range origins {
					if n := len(o.asked()); n != 1 {
						t.Fatalf("the upstream was asked %d times for client %d's content", n, i)
					}
				}
				if ahead.closed != 1 {
					t.Errorf("%d streams of the prefetch were closed, want 1", ahead.closed)
				}
				for i, o := range origins {
					o.step <- 1000
					if got, err := readAll(readers[i]); err != nil || len(got) != 1000 {
						t.Errorf("%d bytes, %v", len(got), err)
					}
				}
				ahead.step <- 60 << 10
				if got := <-ended; got != "true <nil>" {
					t.Errorf("the prefetch ended with %s", got)
				}
				if want := fmt.Sprintf("[0+-1 %d+-1 of a body under way]", 40<<10); fmt.Sprint(ahead.asked()) != want {
					t.Errorf("the upstream was asked %v, want %v", ahead.asked(), want)
				}
				if !s.stored(t, digest.FromBytes(ahead.body)) {
					t.Error("it is not stored")
				}
			})
		})
	}
}

// A prefetch waits without a place until there is one that no other download waits for. A
// client that joins it makes it one like all others.
func TestPrefetchWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSetup(t, func(o *download.Options) { o.MaxFetches = 1 })
		defer s.Close()
		first := &origin{body: random(1000), step: make(chan int)}
		defer s.reader(t, t.Context(), digest.FromBytes(first.body), first.source(ours)).Close()
		synctest.Wait()
		ahead := &origin{body: random(1000), step: make(chan int)}
		ended := s.prefetch(t.Context(), ahead, ours)
		second := &origin{body: random(1000), step: make(chan int)}
		defer s.reader(t, t.Context(), digest.FromBytes(second.body), second.source(ours)).Close()
		synctest.Wait()
		first.step <- 1000
		synctest.Wait()
		if len(second.asked()) != 1 || len(ahead.asked()) != 0 {
			t.Fatalf("the second client's upstream was asked %v, that of the prefetch %v", second.asked(), ahead.asked())
		}
		third := &origin{body: random(1000), step: make(chan int)}
		joined := s.reader(t, t.Context(), digest.FromBytes(ahead.body), ahead.source(ours))
		defer joined.Close()
		synctest.Wait()
		defer s.reader(t, t.Context(), digest.FromBytes(third.body), third.source(ours)).Close()
		synctest.Wait()
		second.step <- 1000
		synctest.Wait()
		if len(ahead.asked()) != 1 || len(third.asked()) != 0 {
			t.Fatalf("a client joined first: the upstream was asked %v, that of a later client %v", ahead.asked(), third.asked())
		}
		ahead.step <- 1000
		if got := <-ended; got != "true <nil>" {
			t.Errorf("the prefetch ended with %s", got)
		}
		third.step <- 1000
	})
}

// Content that is stored, or that is on its way for a client, costs no request, and a prefetch
// ends with its context.
func TestPrefetchOfNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSetup(t, func(o *download.Options) { o.OnUnattended = (*download.Download).Abandon })
		defer s.Close()
		o := &origin{body: random(1000), step: make(chan int)}
		r := s.reader(t, t.Context(), digest.FromBytes(o.body), o.source(ours))
		if got := <-s.prefetch(t.Context(), o, ours); got != "false <nil>" {
			t.Errorf("while a client downloads it: %s", got)
		}
		o.step <- 1000
		if _, err := readAll(r); err != nil {
			t.Error(err)
		}
		r.Close()
		synctest.Wait()
		if got := <-s.prefetch(t.Context(), o, ours); got != "false <nil>" {
			t.Errorf("while it is stored: %s", got)
		}
		if len(o.asked()) != 1 {
			t.Errorf("the upstream was asked %v", o.asked())
		}

		ctx, cancel := context.WithCancelCause(t.Context())
		o = &origin{body: random(1000), step: make(chan int)}
		ended := s.prefetch(ctx, o, ours)
		cancel(errors.New("the mirror ends"))
		if got := <-ended; got != "true the mirror ends" {
			t.Errorf("it ended with %s", got)
		}
		synctest.Wait()
		if o.closed != 1 {
			t.Error("the stream is open")
		}
	})
}
