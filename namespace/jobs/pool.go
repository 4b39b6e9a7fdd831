// Package jobs runs the mirror's background work: completing downloads that all
// clients have left, storing manifests for which room has to be made first, and
// warming images.
//
// No job is ever needed: a later pull does the same work by itself. So a [Pool] is
// bounded in every way, and drops the jobs that do not fit.
package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// queuePerWorker is how many jobs wait for each one that can run: enough for the
// blobs of a few images whose clients have left.
const queuePerWorker = 64

// longestJob is how long a job may take. A blob of 20 GiB comes in that time at 1 MiB a
// second; a job that takes longer waits for an upstream that never ends.
const longestJob = 6 * time.Hour

// longestTurn is how long a job may take while a block without one waits for a place.
// A blob of 8 GiB comes in that time at 5 MiB a second.
const longestTurn = 30 * time.Minute

var (
	// errTooLong ends a job that takes longer than longestJob.
	errTooLong = errors.New("jobs: the job has taken too long")
	// errTurnOver ends a job that takes longer than longestTurn.
	errTurnOver = errors.New("jobs: another repository block needs the slot of the job")
)

// Key names a job. It is of a comparable type, and is compared as it is; its String
// is for the log only.
type Key interface {
	fmt.Stringer
	// Block is the key of the repository block that the job is for.
	Block() string
}

// Pool runs a bounded number of jobs at once, keeps a bounded number waiting, and
// has at most one job of each key. All methods may be called concurrently.
//
// Repository blocks take turns. A block never runs more jobs than could still begin
// after them: half of all if it is alone, and less if others run too. So the jobs of
// an upstream that never ends them leave room for those of others. The same holds
// for the places in the queue. If the jobs of several blocks together have taken all
// places, and a block without one waits, the oldest job ends after its turn.
type Pool struct {
	size    int
	logger  *slog.Logger
	metrics *Metrics
	ctx     context.Context
	cancel  context.CancelFunc
	workers sync.WaitGroup

	mu      sync.Mutex
	running map[string]int // by block
	active  []*activeJob   // all that run, the oldest first
	turn    *time.Timer    // ends the oldest one, if a block needs its place
	queue   map[string][]job
	queued  int
	turns   []string     // the blocks with a queue; the first is next
	keys    map[Key]bool // of all jobs that run or wait
	closed  bool
}

type job struct {
	key Key
	run func(context.Context) error
}

// activeJob is a job that runs.
type activeJob struct {
	block string
	began time.Time
	end   context.CancelCauseFunc
}

// NewPool returns a pool that runs up to size jobs at once.
func NewPool(size int, metrics *Metrics, logger *slog.Logger) *Pool {
	ctx, cancel := context.WithCancel(context.Background())
	p := &Pool{size: size, logger: logger, metrics: metrics, ctx: ctx, cancel: cancel, keys: make(map[Key]bool),
		running: make(map[string]int), queue: make(map[string][]job)}
	p.turn = time.AfterFunc(longestTurn, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.giveWay()
	})
	p.turn.Stop() // until a block needs a place
	return p
}

// Size is how many jobs can run at once.
func (p *Pool) Size() int { return p.size }

// Submit hands over a job. It reports whether this job, or another one with its
// key, runs or waits to run. The context of run ends when the pool is closed, or when
// the job takes too long.
func (p *Pool) Submit(key Key, run func(context.Context) error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	block := key.Block()
	switch {
	case p.closed:
		return false
	// The job that is there does the same work.
	case p.keys[key]:
		return true
	case p.queue[block] == nil && p.admits(block):
		p.keys[key] = true
		p.start(job{key, run})
		return true
	// A longer queue would only hold work that later pulls do anyway.
	case len(p.queue[block]) > 0 && len(p.queue[block]) >= p.size*queuePerWorker-p.queued,
		p.queued == p.size*queuePerWorker:
		p.metrics.ended("dropped")
		return false
	}
	p.keys[key] = true
	if p.queue[block] == nil {
		p.turns = append(p.turns, block)
	}
	p.queue[block] = append(p.queue[block], job{key, run})
	p.queued++
	p.metrics.set(len(p.active), p.queued)
	p.giveWay()
	return true
}

// admits reports whether a block may run a further job: it leaves as many places free
// as it takes. The caller holds the mutex, as for start and admit.
func (p *Pool) admits(block string) bool {
	free := p.size - len(p.active)
	return free > 0 && p.running[block] < max(free, 1)
}

// start runs a job. A goroutine exists only while there is work.
func (p *Pool) start(j job) {
	p.running[j.key.Block()]++
	limited, cancel := context.WithTimeoutCause(p.ctx, longestJob, errTooLong)
	ctx, end := context.WithCancelCause(limited)
	active := &activeJob{j.key.Block(), time.Now(), end}
	p.active = append(p.active, active)
	p.metrics.set(len(p.active), p.queued)
	p.workers.Go(func() {
		defer cancel()
		p.work(ctx, j, active)
	})
}

// giveWay ends the oldest job if its turn is over, and a block without a job waits for its
// place. If the turn is not over yet, giveWay runs again then. The caller holds the mutex.
func (p *Pool) giveWay() {
	p.turn.Stop()
	needed := slices.ContainsFunc(p.turns, func(block string) bool { return p.running[block] == 0 })
	if p.closed || !needed || len(p.active) < p.size || p.size == 0 {
		return
	}
	oldest := p.active[0]
	if left := longestTurn - time.Since(oldest.began); left > 0 {
		p.turn.Reset(left)
		return
	}
	oldest.end(errTurnOver) // which starts the next one
	if i := slices.Index(p.turns, oldest.block); i >= 0 {
		p.turns = append(slices.Delete(p.turns, i, i+1), oldest.block) // others first
	}
}

// admit starts waiting jobs, by turns between blocks.
func (p *Pool) admit() {
	for {
		i := slices.IndexFunc(p.turns, p.admits)
		if i < 0 {
			return
		}
		block := p.turns[i]
		p.turns = slices.Delete(p.turns, i, i+1)
		j := p.queue[block][0]
		p.queue[block] = p.queue[block][1:]
		p.queued--
		if len(p.queue[block]) > 0 {
			p.turns = append(p.turns, block)
		} else {
			delete(p.queue, block)
		}
		p.start(j)
	}
}

// Close cancels the running jobs, drops the waiting ones, and returns when all
// have ended.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	// Waiting jobs would fail at once, since their context ends now.
	for range p.queued {
		p.metrics.ended("dropped")
	}
	clear(p.queue)
	p.turns, p.queued = nil, 0
	p.turn.Stop()
	p.metrics.set(len(p.active), 0)
	p.mu.Unlock()
	p.cancel()
	p.workers.Wait()
}

// work runs a job, and starts those that its end lets run.
func (p *Pool) work(ctx context.Context, j job, active *activeJob) {
	err := j.run(ctx)
	active.end(nil)
	if err != nil {
		p.logger.Warn("a background cache job failed. A later pull does its work", "job", j.key.String(), "error", err)
		p.metrics.ended("failed")
	} else {
		p.metrics.ended("done")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.keys, j.key)
	block := j.key.Block()
	if p.running[block]--; p.running[block] == 0 {
		delete(p.running, block)
	}
	p.active = slices.DeleteFunc(p.active, func(a *activeJob) bool { return a == active })
	p.admit()
	p.giveWay()
	p.metrics.set(len(p.active), p.queued)
}
