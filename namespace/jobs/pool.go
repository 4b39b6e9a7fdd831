// Package jobs runs the mirror's background work: completing downloads that all
// clients have left, storing manifests for which room has to be made first, and
// warming images.
//
// No job is ever needed: a later pull does the same work by itself. So a [Pool] is
// bounded in every way, and drops the jobs that do not fit.
package jobs

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
)

// queuePerWorker is how many jobs wait for each one that can run: enough for the
// blobs of a few images whose clients have left.
const queuePerWorker = 64

// Pool runs a bounded number of jobs at once, keeps a bounded number waiting, and
// has at most one job of each key. All methods may be called concurrently.
type Pool struct {
	size    int
	logger  *slog.Logger
	metrics *Metrics
	ctx     context.Context
	cancel  context.CancelFunc
	workers sync.WaitGroup

	mu      sync.Mutex
	running int
	queue   []job
	keys    map[fmt.Stringer]bool // of all jobs that run or wait
	closed  bool
}

type job struct {
	key fmt.Stringer
	run func(context.Context) error
}

// NewPool returns a pool that runs up to size jobs at once.
func NewPool(size int, metrics *Metrics, logger *slog.Logger) *Pool {
	ctx, cancel := context.WithCancel(context.Background())
	return &Pool{size: size, logger: logger, metrics: metrics, ctx: ctx, cancel: cancel, keys: make(map[fmt.Stringer]bool)}
}

// Size is how many jobs can run at once.
func (p *Pool) Size() int { return p.size }

// Submit hands over a job. It reports whether this job, or another one with its
// key, runs or waits to run. The key is of a comparable type, and is compared as
// it is; its String is for the log only. The context of run ends when the pool is
// closed.
func (p *Pool) Submit(key fmt.Stringer, run func(context.Context) error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		return false
	// The job that is there does the same work.
	case p.keys[key]:
		return true
	// A longer queue would only hold work that later pulls do anyway.
	case p.running == p.size && len(p.queue) == p.size*queuePerWorker:
		p.metrics.ended("dropped")
		return false
	}
	p.keys[key] = true
	if p.running == p.size {
		p.queue = append(p.queue, job{key, run})
		p.metrics.set(p.running, len(p.queue))
		return true
	}
	// Workers exist only while there is work: each one ends with an empty queue.
	p.running++
	p.metrics.set(p.running, len(p.queue))
	p.workers.Go(func() { p.work(job{key, run}) })
	return true
}

// Close cancels the running jobs, drops the waiting ones, and returns when all
// have ended.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	// Waiting jobs would fail at once, since their context ends now.
	for range p.queue {
		p.metrics.ended("dropped")
	}
	p.queue = nil
	p.metrics.set(p.running, 0)
	p.mu.Unlock()
	p.cancel()
	p.workers.Wait()
}

// work runs a job and then the next ones in the queue.
func (p *Pool) work(j job) {
	for ok := true; ok; j, ok = p.next(j) {
		if err := j.run(p.ctx); err != nil {
			p.logger.Warn("a cache job failed; a later pull does its work", "job", j.key.String(), "error", err)
			p.metrics.ended("failed")
		} else {
			p.metrics.ended("done")
		}
	}
}

// next ends a job and takes the next one. It reports false if the queue is empty,
// and then the worker ends.
func (p *Pool) next(done job) (job, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.keys, done.key)
	defer func() { p.metrics.set(p.running, len(p.queue)) }()
	if len(p.queue) == 0 {
		p.running--
		return job{}, false
	}
	j := p.queue[0]
	p.queue = p.queue[1:]
	return j, true
}
