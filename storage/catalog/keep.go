package catalog

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
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

// Add counts that many more.
func (u *Usage) Add(bytes, records int64) {
	u.bytes.Add(bytes)
	u.records.Add(records)
}

// exceeds reports whether the records are over a limit.
func (u *Usage) exceeds(l Limits) bool {
	return sum{u.bytes.Load(), u.records.Load()}.exceeds(l)
}

// KeepOptions configure [Catalog.Keep].
type KeepOptions struct {
	Records storage.RecordKeeper
	// Limits returns the limits of this moment.
	Limits func() Limits
	// Usage is called for each change of a record by the driver.
	Usage *Usage
	// Counted is called with how much a listing corrects the Usage by, in bytes.
	Counted func(bytes int64)
	Logger  *slog.Logger
}

// Keep keeps the records within limits until its context ends: those go first that were
// not used for the longest time. If there are too many, or too many bytes of them, the
// blocks that have most lose their own. Keep counts the records at the start, behind the
// first requests, and each hour.
func (c *Catalog) Keep(ctx context.Context, opts KeepOptions) {
	ticker := time.NewTicker(keepPause)
	defer ticker.Stop()
	var listed time.Time // before the first listing the sums are not known
	for {
		limits := opts.Limits()
		if time.Since(listed) > recountPause || opts.Usage.exceeds(limits) {
			if err := c.keep(ctx, opts, limits); err != nil && ctx.Err() == nil {
				opts.Logger.Warn("cannot list or remove records, so their number may exceed its limit. Check that the directory of the store is readable and writable", "error", err)
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
			opts.Logger.Info("removed the least recently used records", "records", report.Removed)
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

// Trim removes the records that were not used for a while. It finds a bounded number of
// them, the oldest first.
func (c *Catalog) Trim(ctx context.Context, records storage.RecordKeeper, unused time.Duration, dryRun bool) (TrimReport, error) {
	return c.trim(ctx, records, Limits{Unused: unused}, dryRun)
}

func (c *Catalog) trim(ctx context.Context, records storage.RecordKeeper, limits Limits, dryRun bool) (TrimReport, error) {
	t := trimming{catalog: c, dryRun: dryRun, blocks: make(map[string]sum), removed: make(map[string]bool)}
	now := time.Now()
	isUnused := func(r storage.RecordEntry) bool { return limits.Unused > 0 && now.Sub(r.Used) > limits.Unused }
	oldest, err := list(ctx, records, now, func(entry storage.RecordEntry) bool {
		t.count(entry, 1)
		return isUnused(entry)
	})
	report := TrimReport{bytes: t.all.bytes, records: t.all.records}
	if err != nil {
		return TrimReport{}, err
	}
	excessive := t.all.exceeds(limits)
	err = t.remove(ctx, oldest, isUnused)
	if err == nil && excessive {
		limits.Bytes -= limits.Bytes / trimShare
		limits.Records -= limits.Records / trimShare
		err = t.shrink(ctx, records, now, limits)
	}
	report.Removed = len(t.removed)
	return report, err
}

// sum counts records.
type sum struct{ bytes, records int64 }

func (s sum) exceeds(l Limits) bool {
	return l.Bytes > 0 && s.bytes > l.Bytes || l.Records > 0 && s.records > l.Records
}

// trimming is one removal of records.
type trimming struct {
	catalog *Catalog
	dryRun  bool
	all     sum
	blocks  map[string]sum // by the first segment of the keys
	removed map[string]bool
}

// count adds a record to the sums, or takes it away if n is -1.
func (t *trimming) count(entry storage.RecordEntry, n int64) {
	of := t.blocks[blockOf(entry)]
	for _, s := range []*sum{&t.all, &of} {
		s.bytes += n * entry.Size
		s.records += n
	}
	t.blocks[blockOf(entry)] = of
}

func blockOf(entry storage.RecordEntry) string {
	block, _, _ := strings.Cut(entry.Key, "/")
	return block
}

// shrink removes records until they are within limits. The blocks with most of them give
// way, until they have equal parts: floods of several blocks, such as tags that their
// upstreams invent, must not remove the records of others, which may be in use and yet
// touched some hours ago.
func (t *trimming) shrink(ctx context.Context, records storage.RecordKeeper, now time.Time, limits Limits) error {
	var bytes, numbers []int64
	for _, s := range t.blocks {
		bytes, numbers = append(bytes, s.bytes), append(numbers, s.records)
	}
	most := Limits{Bytes: level(bytes, limits.Bytes), Records: level(numbers, limits.Records)}
	gives := func(r storage.RecordEntry) bool {
		return !t.removed[r.Key] && t.all.exceeds(limits) && t.blocks[blockOf(r)].exceeds(most)
	}
	oldest, err := list(ctx, records, now, gives)
	return cmp.Or(err, t.remove(ctx, oldest, gives))
}

// level returns how much each block may have so that all together are within a limit. Those
// that have less keep all. It returns 0, which is no limit, if they are.
func level(blocks []int64, limit int64) int64 {
	if limit <= 0 {
		return 0
	}
	slices.Sort(blocks)
	for i, has := range blocks {
		if part := limit / int64(len(blocks)-i); has > part {
			return max(part, 1)
		}
		limit -= has
	}
	return 0
}

// remove removes those of some records that have to go.
func (t *trimming) remove(ctx context.Context, records []storage.RecordEntry, goes func(storage.RecordEntry) bool) error {
	for _, r := range records {
		if !goes(r) {
			continue
		}
		if err := t.catalog.forget(ctx, r.Key, t.dryRun); errors.Is(err, errForeign) {
			continue
		} else if err != nil {
			return err
		}
		t.removed[r.Key] = true
		t.count(r, -1)
	}
	return nil
}

// list returns the oldest of the records that are wanted, the oldest first.
func list(ctx context.Context, records storage.RecordKeeper, now time.Time, wanted func(storage.RecordEntry) bool) ([]storage.RecordEntry, error) {
	var oldest youngestFirst
	for entry, err := range records.AllRecords(ctx) {
		if err != nil {
			return nil, fmt.Errorf("storage: cannot list the records: %w", err)
		}
		if entry.Used.After(now) { // a clock ran ahead
			entry.Used = now
		}
		if wanted(entry) {
			oldest.add(entry)
		}
	}
	return oldest.inOrder(), nil
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

// youngestFirst is a heap of the oldest records, trimBatch at most, the youngest of them at
// its top.
type youngestFirst []storage.RecordEntry

func (h *youngestFirst) add(entry storage.RecordEntry) {
	switch {
	case len(*h) < trimBatch:
		heap.Push(h, entry)
	case entry.Used.Before((*h)[0].Used):
		(*h)[0] = entry
		heap.Fix(h, 0)
	}
}

// inOrder empties the heap, and returns its records, the oldest first.
func (h *youngestFirst) inOrder() []storage.RecordEntry {
	entries := make([]storage.RecordEntry, len(*h))
	for i := len(entries) - 1; i >= 0; i-- {
		entries[i] = heap.Pop(h).(storage.RecordEntry)
	}
	return entries
}

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
