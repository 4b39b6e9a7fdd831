package evict

import (
	"errors"
	"strings"
	"testing"

	"github.com/weirhq/weir/storage/spool"
)

// Each reason has words of its own, and all match ErrNoSpace.
func TestFullError(t *testing.T) {
	broken := errors.New("read-only file system")
	for reason, words := range map[Reason]string{
		InUse:   "10 B is needed, but of the store's limit of 4.0 KiB, running downloads take 1.0 KiB and content that is being read takes 2.0 KiB",
		TooSlow: "nothing was deleted in time to make room for 10 B", CannotDelete: "read-only file system", notIndexed: "index", closing: "closed",
		OverShare: `"quay.io" has 3.0 KiB, more than any other block`,
	} {
		err := error(&FullError{Reason: reason, Want: 10, Max: 4096, Reserved: 1024, Pinned: 2048, Owner: "quay.io", Own: 3072, Err: broken})
		if !errors.Is(err, spool.ErrNoSpace) || !errors.Is(err, broken) || !strings.Contains(err.Error(), words) {
			t.Errorf("%v, want ErrNoSpace and %q", err, words)
		}
	}
}

// A lack of room that a download and its like cause says nothing about the store.
func TestFullErrorCausedByInput(t *testing.T) {
	const limit = 1000
	for name, c := range map[string]struct {
		err  FullError
		want bool
	}{
		"larger than the limit":                    {FullError{Reason: InUse, Want: limit + 1}, true},
		"the largest length of all":                {FullError{Reason: InUse, Want: 1<<63 - 1}, true},
		"an endless download has come to half":     {FullError{Reason: InUse, Want: 1, Running: limit / 2}, true},
		"an endless download of far more":          {FullError{Reason: InUse, Want: 100, Running: limit - 50}, true},
		"a part of the limit, and it is in use":    {FullError{Reason: InUse, Want: limit / 4, Pinned: limit}, false},
		"a small one, beside others":               {FullError{Reason: InUse, Want: 10, Running: 100, Reserved: limit}, false},
		"an owner with more than its share":        {FullError{Reason: OverShare, Want: 1}, true},
		"deletions fail":                           {FullError{Reason: CannotDelete, Want: limit + 1}, false},
		"deletions take too long":                  {FullError{Reason: TooSlow, Want: limit + 1}, false},
		"the index is not loaded":                  {FullError{Reason: notIndexed, Want: limit + 1}, false},
		"an endless one while deletions take long": {FullError{Reason: TooSlow, Want: 1, Running: limit}, false},
	} {
		c.err.Max = limit
		if got := c.err.CausedByInput(); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
