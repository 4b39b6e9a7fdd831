// Package keepwarm keeps images in the cache, on a schedule.
//
// A [Warmer] gets the images that the namespaces want. It warms each one soon
// after that, and then again and again, as a job of the pool:
//
//	        Apply                 due and a place is free
//	wanted ------> waiting ---------------------------------> running
//	                  ^                                          |
//	                  |   done: after Every                      |
//	                  +------------------------------------------+
//	                      failed or dropped: after a growing pause
//
// The package knows namespaces only through the interface [Namespace].
package keepwarm

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weirhq/weir/internal/notify"
	"github.com/weirhq/weir/namespace/jobs"
	"github.com/weirhq/weir/warm"
)

const (
	// firstWithin is how soon after its configuration an image is first warmed.
	// The moment is random, so that mirrors that start together do not ask their
	// upstreams together.
	firstWithin = 5 * time.Second
	// firstRetry is how long after a failure an image is tried again. The pause
	// doubles with each further failure, up to lastRetry, which is also the
	// longest cooldown of an upstream.
	firstRetry = time.Minute
	lastRetry  = 15 * time.Minute
	// jobsPerImage is how many blobs of an image are downloaded at once. Docker
	// clients do the same, so a warming is no heavier than a pull.
	jobsPerImage = 3
)

// Warmer keeps images in the cache. At most half of the pool's jobs (but one in
// any case) are warmings of one block, so that downloads that its clients have left, and
// the warmings of others, find a place.
type Warmer struct {
	pool    *jobs.Pool
	metrics *Metrics
	logger  *slog.Logger
	ctx     context.Context
	cancel  context.CancelFunc
	changed notify.Signal // wakes the goroutine
	ended   sync.WaitGroup

	mu      sync.Mutex // taken before the pool's; nothing is logged or read under it
	images  map[identity]*scheduled
	running map[string]int // by the key of the block
	runs    int            // ever begun
}

// New returns a Warmer that works on a pool until its Close.
func New(pool *jobs.Pool, metrics *Metrics, logger *slog.Logger) *Warmer {
	ctx, cancel := context.WithCancel(context.Background())
	w := &Warmer{
		pool: pool, metrics: metrics, logger: logger, ctx: ctx, cancel: cancel,
		changed: notify.NewSignal(), images: make(map[identity]*scheduled), running: make(map[string]int),
	}
	w.ended.Go(w.run)
	return w
}

// Close ends all warming at once, and gives up the downloads that no client
// wants. When it returns, no warming starts another download.
func (w *Warmer) Close() {
	w.mu.Lock()
	w.cancel()
	w.mu.Unlock()
	w.ended.Wait()
}

// Apply replaces the images to keep warm by those of the given namespaces. An
// image that did not change keeps its schedule, and is not disturbed if it is
// being warmed just now.
func (w *Warmer) Apply(namespaces []Namespace) {
	w.mu.Lock()
	defer w.mu.Unlock()
	next := w.wanted(namespaces)
	touched := make(map[string]bool) // keys of namespaces whose gauges change
	for id, i := range w.images {
		touched[i.namespace.Key()] = true
		if next[id] == nil {
			i.gone = true
			if i.cancel != nil {
				i.cancel()
			}
		}
	}
	for id, i := range next {
		touched[i.namespace.Key()] = true
		if old := w.images[id]; old != nil {
			old.namespace = i.namespace
			next[id] = old
		}
	}
	w.images = next
	for namespace := range touched {
		w.measure(namespace)
	}
	w.changed.Notify()
}

// wanted returns the images of namespaces, each with a new schedule.
func (w *Warmer) wanted(namespaces []Namespace) map[identity]*scheduled {
	images := make(map[identity]*scheduled)
	now := time.Now()
	for _, n := range namespaces {
		for _, image := range n.Images() {
			i := &scheduled{Image: image, namespace: n, wanted: now, due: now.Add(rand.N(firstWithin))}
			i.repo, _ = n.Warm(image.Name)
			images[i.identity()] = i
		}
	}
	return images
}

func (w *Warmer) run() {
	for {
		select {
		case <-w.ctx.Done():
			return
		case <-w.changed.C():
		case <-time.After(w.begin()):
		}
	}
}

// begin submits the images that are due, as many as may run at once, and returns
// how long to wait until the next one is due.
func (w *Warmer) begin() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	idle := make([]*scheduled, 0, len(w.images))
	for _, i := range w.images {
		if i.cancel == nil {
			idle = append(idle, i)
		}
	}
	slices.SortFunc(idle, func(a, b *scheduled) int {
		return cmp.Or(a.due.Compare(b.due), cmp.Compare(a.String(), b.String()))
	})
	next := lastRetry
	for _, i := range idle {
		if wait := time.Until(i.due); wait > 0 {
			return min(wait, next)
		}
		// Each block has a limit of its own, since the upstream of one may never end.
		if w.running[i.namespace.Key()] >= max(1, w.pool.Size()/2) {
			continue // the end of a running one wakes the goroutine
		}
		if !w.submit(i) {
			next = firstRetry // nothing wakes the goroutine when the pool has room again
		}
	}
	return next
}

// submit hands an image to the pool. It reports false if the pool is full. Then the
// image is due again after firstRetry.
func (w *Warmer) submit(i *scheduled) bool {
	ctx, cancel := context.WithCancel(w.ctx)
	w.runs++
	n := i.namespace
	if !w.pool.Submit(run{i.identity(), w.runs}, func(pool context.Context) error { return w.warm(ctx, pool, n, i) }) {
		cancel()
		w.metrics.ended(n.Key(), dropped)
		i.due = time.Now().Add(firstRetry)
		return false
	}
	i.cancel = cancel
	w.running[n.Key()]++
	return true
}

// enter reports whether a warming that has waited for its turn may begin. If it
// may, Close waits for its end.
func (w *Warmer) enter() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ctx.Err() != nil {
		return false // Close may be done, and waits for nothing more
	}
	w.ended.Add(1)
	return true
}

// warm warms an image until the first of two contexts ends: the image's own, and
// that of the pool.
func (w *Warmer) warm(ctx, pool context.Context, n Namespace, i *scheduled) error {
	if !w.enter() {
		return nil
	}
	defer w.ended.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(pool, cancel)()
	_, source := n.Warm(i.Name)
	result := warm.Image(ctx, source, i.Reference,
		warm.Options{Platforms: i.Platforms, Referrers: i.Referrers, Jobs: jobsPerImage, MaxManifest: n.MaxManifest()})
	return w.end(i, result, ctx.Err() != nil)
}

// end notes how a warming ended, and returns its error for the pool to log.
func (w *Warmer) end(i *scheduled, result warm.Result, cancelled bool) error {
	err, counted := w.settle(i, result, cancelled)
	if err == nil && counted {
		level := slog.LevelDebug
		if result.New.Objects > 0 {
			level = slog.LevelInfo // something changed upstream
		}
		attrs := []any{"image", i.String(), "digest", result.Digest,
			"new", result.New.Objects, "new_bytes", result.New.Bytes,
			"already_there", result.There.Objects, "already_there_bytes", result.There.Bytes}
		if len(result.Notes) > 0 {
			attrs = append(attrs, "left_out", strings.Join(result.Notes, "; "))
		}
		w.logger.Log(w.ctx, level, "an image was warmed", attrs...)
	}
	return err
}

// settle decides when an image is due again. It reports false for counted if the
// outcome says nothing about the image.
func (w *Warmer) settle(i *scheduled, result warm.Result, cancelled bool) (err error, counted bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	defer w.changed.Notify()
	w.running[i.namespace.Key()]--
	i.cancel()
	i.cancel = nil
	// An image that is no longer wanted has no gauges to update, and a cancelled
	// warming neither succeeded nor failed.
	if cancelled || i.gone {
		return nil, false
	}
	defer w.measure(i.namespace.Key())
	if err := result.Err(); err != nil {
		// An image with a short interval is not delayed beyond it.
		pause := min(firstRetry<<min(i.failures, 10), lastRetry, i.Every)
		i.failures++
		i.due = time.Now().Add(pause)
		w.metrics.ended(i.namespace.Key(), failed)
		return fmt.Errorf("%w. Weir tries again in %s", err, pause), true
	}
	i.failures, i.succeeded = 0, time.Now()
	// Up to a twentieth early, so that images that began together drift apart.
	i.due = time.Now().Add(i.Every - rand.N(i.Every/20+1))
	w.metrics.ended(i.namespace.Key(), done)
	return nil, true
}

// measure updates the gauges of a namespace. The caller holds the mutex.
func (w *Warmer) measure(namespace string) {
	failing := 0
	var oldest time.Time
	for _, i := range w.images {
		if i.namespace.Key() != namespace {
			continue
		}
		if i.failures > 0 {
			failing++
		}
		last := i.succeeded
		if last.IsZero() {
			last = i.wanted // an image that was never warm ages from then on
		}
		if oldest.IsZero() || last.Before(oldest) {
			oldest = last
		}
	}
	if oldest.IsZero() {
		w.metrics.dropNamespace(namespace)
		return
	}
	w.metrics.setWarmGauges(namespace, failing, oldest)
}
