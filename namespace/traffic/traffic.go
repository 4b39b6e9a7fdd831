// Package traffic knows what a mirror has answered: how much, by minutes, quarters of an hour and
// days, and the last requests one by one.
//
//	Answered ---> sums of the process ---> slots in memory ---> record of this mirror --\
//	                      every 5 s               every minute                           +--> Figures
//	                                              records of other mirrors ------------/
//
// A request adds to sums only. A crash loses a minute. A record that cannot be written stays in
// memory, and is written with the next one.
package traffic

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
)

const (
	// step is the length of a slot of the last minute.
	step = 5 * time.Second
	// steps is how many slots the last minute has.
	steps = int(time.Minute / step)
	// othersAge is for how long the figures of other mirrors count. They write theirs each minute.
	othersAge = time.Minute
)

// Records keep the traffic of mirrors.
type Records interface {
	// PutTraffic replaces the traffic of a mirror.
	PutTraffic(ctx context.Context, mirror string, t catalog.Traffic) error
	// Traffic returns an error that matches storage.ErrNotExist if the mirror has written none.
	Traffic(ctx context.Context, mirror string) (catalog.Traffic, error)
	// TrafficBeside returns the sum of all mirrors but one.
	TrafficBeside(ctx context.Context, mirror string) (catalog.Traffic, error)
}

// Options configure a [Counter].
type Options struct {
	Records Records
	// Mirror returns the name of this mirror among those that write the same records. It stays
	// the same after a restart.
	Mirror func() string
	// Fetched returns how many bytes of content were read from upstreams since the start.
	Fetched func() int64
	Health  *storage.Health // of the records; nil: failures are not reported
}

// Figures are what the mirrors on the same records have answered until now.
type Figures struct {
	Now   catalog.Amounts // of the last minute, of this mirror alone
	Hour  catalog.Amounts
	Day   catalog.Amounts // of the last 24 hours
	Month catalog.Amounts // of 30 days of UTC, with this one
	Curve []Point         // of the last 24 hours, the oldest first
}

// Point is a quarter of an hour.
type Point struct {
	Time time.Time // its start
	catalog.Amounts
}

// Counter counts answers. A nil *Counter counts nothing. All methods may be called concurrently.
type Counter struct {
	opts    Options
	stop    context.CancelFunc
	stopped chan struct{}

	requests, hits, served atomic.Int64 // since the start

	mu      sync.Mutex
	taken   catalog.Amounts // of the sums, into slots
	minute  catalog.Series  // slots of a step
	slots   catalog.Traffic
	changed bool // since the last record

	begun bool // the record of an earlier process is in the slots; used by one goroutine at a time

	reading sync.Mutex // held while others is read from the records
	others  catalog.Traffic
	read    time.Time
}

// New returns a counter, which writes until it is closed.
func New(opts Options) *Counter {
	ctx, cancel := context.WithCancel(context.Background())
	c := &Counter{opts: opts, stop: cancel, stopped: make(chan struct{})}
	go c.run(ctx)
	return c
}

func (c *Counter) run(ctx context.Context) {
	defer close(c.stopped)
	ticker := time.NewTicker(step)
	defer ticker.Stop()
	for n := 1; ; n++ {
		c.begin(ctx)
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			c.take(now)
		}
		if n%steps == 0 {
			c.write(ctx)
		}
	}
}

// Close writes the record and ends the counter.
func (c *Counter) Close(ctx context.Context) {
	if c == nil {
		return
	}
	c.stop()
	<-c.stopped
	c.take(time.Now())
	c.begin(ctx)
	c.write(ctx)
}

// Answered counts an answer with a body of that many bytes, in which the cache had a part. Errors and
// pings have none: a mirror that is only probed writes no record.
func (c *Counter) Answered(bytes int64, hit bool) {
	if c == nil {
		return
	}
	c.served.Add(bytes)
	c.requests.Add(1)
	if hit {
		c.hits.Add(1)
	}
}

// take moves what the sums have got since the last time into slots.
func (c *Counter) take(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	sums := catalog.Amounts{Requests: c.requests.Load(), Hits: c.hits.Load(), Served: c.served.Load(), Fetched: c.opts.Fetched()}
	more := sums.Minus(c.taken)
	if more == (catalog.Amounts{}) {
		return
	}
	c.taken = sums
	c.minute.Add(catalog.SlotOf(now, step), more, steps)
	c.slots.Add(now, more)
	c.changed = true
}

// begin adds the record of an earlier process to the slots. Until that has succeeded, no record
// is written, since it would replace the earlier one.
func (c *Counter) begin(ctx context.Context) {
	if c.begun {
		return
	}
	earlier, err := c.opts.Records.Traffic(ctx, c.opts.Mirror())
	if err != nil && !errors.Is(err, storage.ErrNotExist) {
		return // the next step tries again
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.slots = earlier.Plus(c.slots)
	c.begun = true
}

// write writes the record if it has changed.
func (c *Counter) write(ctx context.Context) {
	if !c.begun {
		return
	}
	c.mu.Lock()
	slots, changed := catalog.Traffic{}.Plus(c.slots), c.changed // a copy
	c.changed = false
	c.mu.Unlock()
	if !changed {
		return
	}
	err := c.opts.Records.PutTraffic(ctx, c.opts.Mirror(), slots)
	switch {
	case err == nil:
		c.opts.Health.Succeeded()
		return
	case ctx.Err() == nil:
		c.opts.Health.Failed(err, "records", "traffic")
	}
	c.mu.Lock()
	c.changed = true
	c.mu.Unlock()
}

// Figures returns what the mirrors on the same records have answered. Those of the others are a minute old at most.
// With an error, they are as they were last read.
func (c *Counter) Figures(ctx context.Context) (Figures, error) {
	others, err := c.beside(ctx)
	now := time.Now()
	c.take(now)
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.slots.Plus(others)
	quarter := catalog.SlotOf(now, catalog.Quarter)
	f := Figures{
		Now:   c.minute.Sum(catalog.SlotOf(now, step), steps),
		Hour:  all.Minutes.Sum(catalog.SlotOf(now, time.Minute), catalog.MaxMinutes),
		Day:   all.Quarters.Sum(quarter, catalog.MaxQuarters),
		Month: all.Days.Sum(catalog.SlotOf(now, catalog.Day), catalog.MaxDays),
		Curve: make([]Point, catalog.MaxQuarters),
	}
	for i := range f.Curve {
		slot := quarter - int64(catalog.MaxQuarters-1-i)
		f.Curve[i] = Point{time.Unix(slot*int64(catalog.Quarter/time.Second), 0).UTC(), all.Quarters.At(slot)}
	}
	return f, err
}

// Now returns what this mirror has answered within the last minute.
func (c *Counter) Now() catalog.Amounts {
	now := time.Now()
	c.take(now)
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.minute.Sum(catalog.SlotOf(now, step), steps)
}

// beside returns the traffic of the other mirrors.
func (c *Counter) beside(ctx context.Context) (catalog.Traffic, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	if !c.read.IsZero() && time.Since(c.read) < othersAge {
		return c.others, nil
	}
	others, err := c.opts.Records.TrafficBeside(ctx, c.opts.Mirror())
	if err != nil {
		return c.others, err
	}
	c.others, c.read = others, time.Now()
	return others, nil
}
