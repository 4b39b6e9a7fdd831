package download

import (
	"fmt"
	"time"

	"github.com/weirhq/weir/internal/units"
)

// speedWindow is the time over which the speed of a download is averaged. A slow
// line that stalls for some seconds is not abandoned.
const speedWindow = time.Minute

// TooSlowError says that a download that no client waited for was abandoned, because
// its bytes came too slowly.
type TooSlowError struct {
	Upstream  string // the host that delivered; "" if none did
	Namespace string
	Speed     int64 // bytes per second
	Min       int64 // bytes per second, Options.MinSpeed
}

// Error says how slow the download was. It names no key of a configuration.
func (e *TooSlowError) Error() string {
	return fmt.Sprintf("%s of repository block %q delivers %s a second, less than %s, and no client waits for the download, so it was stopped",
		e.Upstream, e.Namespace, units.IEC(e.Speed), units.IEC(e.Min))
}

// watchSpeed ends a fetch that is too slow, until stop is called: a download that no
// client waits for is abandoned, and one that clients wait for gives its place to
// others that wait for one.
func (d *Download) watchSpeed(slot *lease) (stop func()) {
	least := d.group.opts.MinSpeed
	if least <= 0 {
		return func() {}
	}
	var before int64
	ticker := time.NewTicker(speedWindow)
	done := make(chan struct{})
	go func() {
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
			}
			now := slot.bytes.Load()
			speed := (now - before) / int64(speedWindow/time.Second)
			before = now
			switch {
			case speed >= least:
			case !d.wanted():
				slot.cancel(&TooSlowError{Upstream: d.view().origin, Namespace: d.src.Repository.Block(), Speed: speed, Min: least})
				return
			case d.group.slots.contended():
				slot.cancel(errYielded)
				return
			}
		}
	}()
	return func() { close(done) }
}

// wanted reports whether a client waits for the download. Jobs that complete
// downloads, or keep images warm, do not count.
func (d *Download) wanted() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.clients > 0
}

// attend counts clients of the download.
func (d *Download) attend(more int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.clients += more
	if more > 0 && d.spare.Swap(false) {
		d.claimed.Notify()
	}
}
