package catalog

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/weirhq/weir/storage"
)

const (
	// keepPause is how often the sums are compared with the limits.
	keepPause = 5 * time.Second
	// recountPause is how often all records are listed: other processes change them
	// too, and records grow old.
	recountPause = time.Hour
	// trimBatch is how many of the oldest records are found in one listing. Their keys
	// take a few MB.
	trimBatch = 10_000
	// trimShare is the part of a limit that is trimmed beyond it: one sixteenth, so that
	// the next record does not make another listing.
	trimShare = 16
	// touchPause is how long a record that is used is not touched again. Records are
	// removed after days without a use, or, if there are too many, the oldest ones.
	touchPause = 6 * time.Hour
)

// Limits are those of all records together. A limit of zero is none.
type Limits struct {
	Bytes, Records int64
	Unused         time.Duration // since the last use of a record
}

// Usage counts all records. Its methods may be called concurrently.
type Usage struct{ bytes, records atomic.Int64 }

// Add counts so many more.
func (u *Usage) Add(bytes, records int64) {
	u.bytes.Add(bytes)
	u.records.Add(records)
}

// exceeds reports whether the records are over a limit.
func (u *Usage) exceeds(l Limits) bool {
	return l.Bytes > 0 && u.bytes.Load() > l.Bytes || l.Records > 0 && u.records.Load() > l.Records
}

// KeepOptions configure [Catalog.Keep].
type KeepOptions struct {
	Records storage.RecordKeeper
	// Limits returns the limits of this moment.
	Limits func() Limits
	// Usage is told each change of a record by the driver.
	Usage *Usage
	// Counted is told how much a listing corrects the Usage by, in bytes.
	Counted func(bytes int64)
	Logger  *slog.Logger
}

// Keep keeps the records within limits until its context ends: those go first that were
// not used for the longest time. If there are too many, a block that has more than half of
// them loses its own. Keep counts the records at the start, behind the first
// requests, and each hour.
func (c *Catalog) Keep(ctx context.Context, opts KeepOptions) {
	ticker := time.NewTicker(keepPause)
	defer ticker.Stop()
	var listed time.Time // before the first listing the sums are not known
	for {
		limits := opts.Limits()
		if time.Since(listed) > recountPause || opts.Usage.exceeds(limits) {
			if err := c.keep(ctx, opts, limits); err != nil && ctx.Err() == nil {
				opts.Logger.Warn("cannot list or remove records, so there may be more of them than their limit. Check that the directory of the store is readable and writable", "error", err)
			}
			listed = time.Now()
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// keep counts the records and removes those that are over the limits.
func (c *Catalog) keep(ctx context.Context, opts KeepOptions, limits Limits) error {
	for {
		bytes, records := opts.Usage.bytes.Load(), opts.Usage.records.Load()
		report, err := c.trim(ctx, opts.Records, limits, false)
		if err != nil {
			return err
		}
		// Changes during the listing may count twice, until the next one.
		opts.Usage.Add(report.bytes-bytes, report.records-records)
		opts.Counted(report.bytes - bytes)
		if report.Removed > 0 {
			opts.Logger.Info("removed records that were not used for the longest time", "records", report.Removed)
		}
		if report.Removed < trimBatch { // else older records may be left
			return nil
		}
	}
}

// TrimReport counts the records of one trimming.
type TrimReport struct {
	Removed        int
	bytes, records int64 // before it
}

// Trim removes the records that were not used for a time. It finds a bounded number of
// them, the oldest first.
func (c *Catalog) Trim(ctx context.Context, records storage.RecordKeeper, unused time.Duration, dryRun bool) (TrimReport, error) {
	return c.trim(ctx, records, Limits{Unused: unused}, dryRun)
}

func (c *Catalog) trim(ctx context.Context, records storage.RecordKeeper, limits Limits, dryRun bool) (TrimReport, error) {
	found := listing{now: time.Now()}
	for entry, err := range records.AllRecords(ctx) {
		if err != nil {
			return TrimReport{}, fmt.Errorf("storage: cannot list the records: %w", err)
		}
		found.add(entry)
	}
	found.endBlock()
	report := TrimReport{bytes: found.all.bytes, records: found.all.records}
	var used Usage
	used.Add(report.bytes, report.records)
	target := limits
	if used.exceeds(limits) {
		target.Bytes -= limits.Bytes / trimShare
		target.Records -= limits.Records / trimShare
	}
	removed := make(map[string]bool)
	remove := func(victims []storage.RecordEntry, goes func(storage.RecordEntry) bool) error {
		for _, victim := range victims {
			if removed[victim.Key] {
				continue
			}
			if !goes(victim) {
				return nil
			}
			if err := c.forget(ctx, victim.Key, dryRun); errors.Is(err, errForeign) {
				continue
			} else if err != nil {
				return err
			}
			removed[victim.Key] = true
			used.Add(-victim.Size, -1)
			report.Removed++
		}
		return nil
	}
	oldest := found.all.inOrder()
	err := remove(oldest, func(r storage.RecordEntry) bool { return limits.Unused > 0 && found.now.Sub(r.Used) > limits.Unused })
	// A flood of records of one block, such as tags that its upstream invents, must not
	// remove those of others, which may be in use and yet touched some hours ago.
	own := found.largest
	err = cmp.Or(err, remove(own.inOrder(), func(r storage.RecordEntry) bool {
		if !used.exceeds(target) || 2*own.records <= used.records.Load() {
			return false
		}
		own.records--
		return true
	}))
	err = cmp.Or(err, remove(oldest, func(storage.RecordEntry) bool { return used.exceeds(target) }))
	return report, err
}

// listing is a listing of all records, those of each block together.
type listing struct {
	now          time.Time
	all          ages
	block        string // the first segment of the keys
	own, largest ages   // of that block, and of the block with the most records
}

// add notes the next record.
func (l *listing) add(entry storage.RecordEntry) {
	if entry.Used.After(l.now) { // a clock ran ahead
		entry.Used = l.now
	}
	if block, _, _ := strings.Cut(entry.Key, "/"); block != l.block {
		l.endBlock()
		l.block = block
	}
	l.all.add(entry)
	l.own.add(entry)
}

// endBlock notes that all records of a block have been listed.
func (l *listing) endBlock() {
	if l.own.records > l.largest.records {
		l.largest = l.own
	}
	l.own = ages{}
}

// ages counts records, and finds the oldest ones.
type ages struct {
	bytes, records int64
	oldest         youngestFirst // trimBatch at most
}

func (a *ages) add(entry storage.RecordEntry) {
	a.bytes += entry.Size
	a.records++
	switch {
	case len(a.oldest) < trimBatch:
		heap.Push(&a.oldest, entry)
	case entry.Used.Before(a.oldest[0].Used):
		a.oldest[0] = entry
		heap.Fix(&a.oldest, 0)
	}
}

// inOrder empties the heap, and returns its records, the oldest first.
func (a *ages) inOrder() []storage.RecordEntry {
	entries := make([]storage.RecordEntry, len(a.oldest))
	for i := len(entries) - 1; i >= 0; i-- {
		entries[i] = heap.Pop(&a.oldest).(storage.RecordEntry)
	}
	return entries
}

// errForeign says that no catalog made a record.
var errForeign = errors.New("storage: no record of a catalog")

// forget removes a record, from the memory too.
func (c *Catalog) forget(ctx context.Context, key string, dryRun bool) error {
	_, sort, ok := splitKey(key)
	if !ok {
		return errForeign
	}
	return c.remove(ctx, record{key: key, sort: sort}, PruneOptions{DryRun: dryRun})
}

// youngestFirst is a heap of the oldest records, the youngest of them at its top.
type youngestFirst []storage.RecordEntry

func (h youngestFirst) Len() int { return len(h) }
func (h youngestFirst) Less(i, j int) bool {
	return cmp.Or(h[j].Used.Compare(h[i].Used), cmp.Compare(h[j].Key, h[i].Key)) < 0
}
func (h youngestFirst) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *youngestFirst) Push(e any)   { *h = append(*h, e.(storage.RecordEntry)) }
func (h *youngestFirst) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}
