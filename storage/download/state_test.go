package download_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage/download"
)

// The states tell of running and of waiting downloads, and of none that has ended.
func TestStates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSetup(t, func(o *download.Options) { o.MaxFetches = 1 })
		body, second := random(1<<20), random(1000)
		o := &origin{body: body, step: make(chan int)}
		r := s.reader(t, t.Context(), digest.FromBytes(body), o.source(ours))
		o.step <- 300_000
		if _, err := r.Wait(0, 200_000); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		go func() {
			other := s.reader(t, t.Context(), digest.FromBytes(second), (&origin{body: second}).source(theirs))
			defer other.Close()
			_, _ = readAll(other)
		}()
		synctest.Wait()
		got := s.Running()
		if len(got) != 2 {
			t.Fatalf("%d downloads: %+v", len(got), got)
		}
		first, waits := got[0], got[1]
		if first.Digest != digest.FromBytes(body) || first.Repository != ours || first.Activity != download.Running || first.Clients != 1 ||
			first.Size != int64(len(body)) || first.Offset < 200_000 || first.Offset >= first.Size || first.Started.IsZero() || first.Rate != first.Offset {
			t.Errorf("the first one: %+v", first)
		}
		if waits.Repository != theirs || waits.Activity != download.Waiting || waits.Size != -1 || waits.Offset != 0 || waits.Rate != 0 || waits.Origin != "" {
			t.Errorf("the second one: %+v", waits)
		}
		close(o.step)
		if _, err := readAll(r); err != nil {
			t.Error(err)
		}
		r.Close()
		if err := s.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := s.Running(); len(got) != 0 {
			t.Errorf("at the end: %+v", got)
		}
	})
}
