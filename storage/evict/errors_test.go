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
		InUse:   "10 B wanted; of the store's limit of 4.0 KiB, running downloads take 1.0 KiB and content that is being read 2.0 KiB",
		TooSlow: "nothing was deleted in time to make room for 10 B", CannotDelete: "read-only file system", notIndexed: "index", closing: "closed",
	} {
		err := error(&FullError{Reason: reason, Want: 10, Max: 4096, Reserved: 1024, Pinned: 2048, Err: broken})
		if !errors.Is(err, spool.ErrNoSpace) || !errors.Is(err, broken) || !strings.Contains(err.Error(), words) {
			t.Errorf("%v, want ErrNoSpace and %q", err, words)
		}
	}
}
