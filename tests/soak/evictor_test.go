package soak

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/weirhq/weir/tests/harness"
)

// evictor is the mirror that evicts from the bucket of a long soak. It is no replica, and is not
// killed: eviction takes longer than a replica lives. A short soak has none; a nil *evictor does
// nothing.
type evictor struct {
	*mirror
	fleet         *fleet
	observer      *observer
	before, after level
}

// newEvictor returns the mirror that evicts, which is not started yet, and has clients pull one
// repository after the other, so that there is content that they do not use.
func newEvictor(f *fleet, binary string) *evictor {
	if f.race {
		return nil
	}
	e := &evictor{fleet: f}
	e.mirror = newMirror(f.t, binary, "evictor", &mirror{
		redis: f.redis.URL(), first: f.proxies[0].URL(), second: f.proxies[1].URL(), patience: fleetPatience,
		more: f.bucketConfig(fmt.Sprintf("max_size = %q", bytesOf(bucketSize))),
	})
	e.observer = &observer{mirror: e.mirror}
	ofEach := imagesOfEach + 1
	f.working = func() []image {
		turn := int(turns * time.Since(f.started) / f.duration)
		repo := turn * ofEach % len(f.images)
		return f.images[repo : repo+ofEach]
	}
	return e
}

// begin starts it.
func (e *evictor) begin() {
	if e == nil {
		return
	}
	e.start()
	e.before, _ = e.fleet.settle(e.mirror, func(level) bool { return true })
}

// restart ends it as a supervisor does, and starts it again.
func (e *evictor) restart() {
	if e == nil {
		return
	}
	e.vanish()
	e.Terminate()
	e.start()
}

// observe watches it until the soak is over.
func (e *evictor) observe(ctx context.Context, all *sync.WaitGroup) {
	if e != nil {
		all.Go(func() { e.observer.run(ctx) })
	}
}

// end reports whether the bucket gets within its limit now that nothing is broken, and fails
// the test unless evictions happened, and what they took was given back.
func (e *evictor) end() (within bool) {
	if e == nil {
		return true
	}
	f := e.fleet
	within = harness.Within(4*time.Minute, func() bool { return f.bucket.bytes() <= bucketSize })
	if f.bucket.evicted.Load() == 0 {
		f.t.Error("nothing was evicted from the bucket")
	}
	settled := false
	if e.after, settled = f.settle(e.mirror, e.before.holds); !settled {
		f.t.Errorf("the idle evictor holds %v, and held %v at the start", e.after, e.before)
	}
	f.expectBounds(e.mirror, e.observer)
	return within
}
