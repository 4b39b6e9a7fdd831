package namespace

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

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/warm"
)

const (
	// firstWithin is how soon after its configuration an image is first
	// warmed. The moment is random, so that mirrors that start together do not
	// ask together.
	firstWithin = 5 * time.Second
	// firstRetry is how long after a failure an image is tried again. It
	// doubles with each further one up to lastRetry, which is also how long an
	// upstream rests at most.
	firstRetry = time.Minute
	lastRetry  = 15 * time.Minute
	// jobsPerImage is how many contents of an image come at once.
	jobsPerImage = 3
)

// Warming is an image that a namespace keeps in the cache.
type Warming struct {
	Name      string // with or without the namespace's key before it
	Reference string // tag or digest
	Every     time.Duration
	Platforms []ocispec.Platform // those wanted of an index; none: all
	Referrers bool               // whether signatures and the like are wanted, too
}

// Warmer keeps images in the cache: those that the namespaces of the table in
// force name. Each is a job of the pool, soon after the table that first named
// it, and again and again from then on; at most half the pool's jobs (but one in any case) are such at
// once, so that downloads that clients have left find a place. Namespaces that
// are offline are left alone.
type Warmer struct {
	pool    *Pool
	metrics *Metrics
	log     *slog.Logger
	ctx     context.Context
	cancel  context.CancelFunc
	wake    chan struct{}
	ended   sync.WaitGroup

	mu      sync.Mutex
	images  map[schedule]*warmImage
	running int
	runs    int // ever begun
}

// warmImage is the schedule of one image.
type warmImage struct {
	Warming
	namespace *Namespace // of the table in force
	wanted    time.Time  // since when
	due       time.Time
	succeeded time.Time
	failures  int                // since it last succeeded
	cancel    context.CancelFunc // set while it is being warmed
	gone      bool               // no longer in the table
}

// schedule identifies an image and everything that makes its schedule another
// one's. It is comparable.
type schedule struct {
	repo      storage.Repository
	reference string
	every     time.Duration
	platforms string
	referrers bool
}

func (i *warmImage) repo() storage.Repository { return i.namespace.id(i.namespace.own(i.Name)) }

func (i *warmImage) schedule() schedule {
	return schedule{i.repo(), i.Reference, i.Every, fmt.Sprintf("%q", i.Platforms), i.Referrers}
}

// image names the image for the log.
func (i *warmImage) image() string {
	separator := ":"
	if strings.Contains(i.Reference, ":") {
		separator = "@" // a digest
	}
	return i.repo().String() + separator + i.Reference
}

// warmingJob is the job that warms an image. The number tells a run from an earlier
// one that has not ended yet, although its image is gone.
type warmingJob struct {
	image string
	run   int
}

func (j warmingJob) String() string { return "warm " + j.image }

// NewWarmer returns a Warmer that works on a pool until its Close.
func NewWarmer(pool *Pool, metrics *Metrics, log *slog.Logger) *Warmer {
	ctx, cancel := context.WithCancel(context.Background())
	w := &Warmer{
		pool: pool, metrics: metrics, log: log, ctx: ctx, cancel: cancel,
		wake: make(chan struct{}, 1), images: make(map[schedule]*warmImage),
	}
	w.ended.Go(w.run)
	return w
}

// Close ends all warming at once, and gives up the downloads that nobody else
// wants. When it returns, no warming starts another download.
func (w *Warmer) Close() {
	w.mu.Lock()
	w.cancel()
	w.mu.Unlock()
	w.ended.Wait()
}

// Apply takes over what a table names. Images that did not change keep their
// schedule, and are not disturbed if they are being warmed just now.
func (w *Warmer) Apply(table *Table) {
	w.mu.Lock()
	defer w.mu.Unlock()
	next := make(map[schedule]*warmImage)
	now := time.Now()
	for _, n := range table.Namespaces() {
		if n.spec.Offline {
			continue
		}
		for _, warming := range n.spec.Warm {
			i := &warmImage{Warming: warming, namespace: n, wanted: now, due: now.Add(rand.N(firstWithin))}
			if old := w.images[i.schedule()]; old != nil {
				old.namespace, i = n, old
			}
			next[i.schedule()] = i
		}
	}
	touched := make(map[string]bool) // namespaces
	for key, i := range w.images {
		touched[i.namespace.Key()] = true
		if next[key] == nil {
			i.gone = true
			if i.cancel != nil {
				i.cancel()
			}
		}
	}
	for _, i := range next {
		touched[i.namespace.Key()] = true
	}
	w.images = next
	for namespace := range touched {
		w.measure(namespace)
	}
	w.look()
}

// look makes the goroutine look at the schedule again.
func (w *Warmer) look() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *Warmer) run() {
	for {
		select {
		case <-w.ctx.Done():
			return
		case <-w.wake:
		case <-time.After(w.begin()):
		}
	}
}

// begin submits what is due, as much as may run at once, and returns how long
// nothing else is.
func (w *Warmer) begin() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	idle := make([]*warmImage, 0, len(w.images))
	for _, i := range w.images {
		if i.cancel == nil {
			idle = append(idle, i)
		}
	}
	slices.SortFunc(idle, func(a, b *warmImage) int {
		return cmp.Or(a.due.Compare(b.due), cmp.Compare(a.image(), b.image()))
	})
	for _, i := range idle {
		wait := time.Until(i.due)
		if wait > 0 {
			return wait
		}
		if w.running == max(1, w.pool.size/2) {
			break // who ends looks again
		}
		w.submit(i)
	}
	return lastRetry
}

// submit hands an image to the pool.
func (w *Warmer) submit(i *warmImage) {
	ctx, cancel := context.WithCancel(w.ctx)
	w.runs++
	n := i.namespace
	if !w.pool.Submit(warmingJob{i.image(), w.runs}, func(pool context.Context) error { return w.warm(ctx, pool, n, i) }) {
		cancel()
		w.metrics.warmEnded(n.Key(), "dropped")
		i.due = time.Now().Add(firstRetry)
		return
	}
	i.cancel = cancel
	w.running++
}

// enter reports whether a warming may begin that has waited for its turn. Where
// it may, Close waits for its end.
func (w *Warmer) enter() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ctx.Err() != nil {
		return false
	}
	w.ended.Add(1)
	return true
}

// warm warms an image until the first of two contexts ends.
func (w *Warmer) warm(ctx, pool context.Context, n *Namespace, i *warmImage) error {
	if !w.enter() {
		return nil
	}
	defer w.ended.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(pool, cancel)()
	result := warm.Image(ctx, warmSource{n, n.own(i.Name)}, i.Reference,
		warm.Options{Platforms: i.Platforms, Referrers: i.Referrers, Jobs: jobsPerImage})
	return w.end(i, result, ctx.Err() != nil)
}

// end notes how a warming ended, and returns its error for the pool to log.
func (w *Warmer) end(i *warmImage, result warm.Result, cancelled bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	defer w.look()
	w.running--
	i.cancel()
	i.cancel = nil
	if cancelled || i.gone {
		return nil
	}
	defer w.measure(i.namespace.Key())
	if err := result.Err(); err != nil {
		pause := min(firstRetry<<min(i.failures, 10), lastRetry, i.Every)
		i.failures++
		i.due = time.Now().Add(pause)
		w.metrics.warmEnded(i.namespace.Key(), "failed")
		return fmt.Errorf("%w; it is tried again in %s", err, pause)
	}
	i.failures, i.succeeded = 0, time.Now()
	i.due = time.Now().Add(i.Every - rand.N(i.Every/20+1))
	w.metrics.warmEnded(i.namespace.Key(), "done")
	level := slog.LevelDebug
	if result.New.Objects > 0 {
		level = slog.LevelInfo
	}
	w.log.Log(w.ctx, level, "an image is warm", "image", i.image(), "digest", result.Digest,
		"new", result.New.Objects, "new_bytes", result.New.Bytes,
		"already_there", result.There.Objects, "already_there_bytes", result.There.Bytes)
	return nil
}

// measure tells the metrics how warm a namespace is. The caller holds the mutex.
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
			last = i.wanted
		}
		if oldest.IsZero() || last.Before(oldest) {
			oldest = last
		}
	}
	if oldest.IsZero() {
		w.metrics.coolDown(namespace)
		return
	}
	w.metrics.warmth(namespace, failing, oldest)
}
