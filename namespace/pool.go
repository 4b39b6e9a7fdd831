package namespace

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
)

// queuePerWorker is how many jobs wait for each one that can run.
const queuePerWorker = 64

// Pool runs background jobs: a bounded number at once, a bounded number
// waiting, at most one for each key. What does not fit is dropped, since a job
// only ever does beforehand what a later pull would do by itself.
type Pool struct {
	size    int
	log     *slog.Logger
	metrics *Metrics
	ctx     context.Context
	cancel  context.CancelFunc
	ended   sync.WaitGroup

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
func NewPool(size int, metrics *Metrics, log *slog.Logger) *Pool {
	ctx, cancel := context.WithCancel(context.Background())
	return &Pool{size: size, log: log, metrics: metrics, ctx: ctx, cancel: cancel, keys: make(map[fmt.Stringer]bool)}
}

// Submit hands a job over. It reports whether the job, or another one with its
// key, is running or waiting to run. Keys are comparable, and are compared as
// they are; their String is for the log only.
func (p *Pool) Submit(key fmt.Stringer, run func(context.Context) error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		return false
	case p.keys[key]:
		return true
	case p.running == p.size && len(p.queue) == p.size*queuePerWorker:
		p.metrics.jobEnded("dropped")
		return false
	}
	p.keys[key] = true
	if p.running == p.size {
		p.queue = append(p.queue, job{key, run})
		p.metrics.jobs(p.running, len(p.queue))
		return true
	}
	p.running++
	p.metrics.jobs(p.running, len(p.queue))
	p.ended.Go(func() { p.work(job{key, run}) })
	return true
}

// Close cancels the jobs that run, drops those that wait, and returns when all
// have ended.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	for range p.queue {
		p.metrics.jobEnded("dropped")
	}
	p.queue = nil
	p.metrics.jobs(p.running, 0)
	p.mu.Unlock()
	p.cancel()
	p.ended.Wait()
}

// work runs a job and then the next ones in the queue.
func (p *Pool) work(j job) {
	for ok := true; ok; j, ok = p.next(j) {
		if err := j.run(p.ctx); err != nil {
			p.log.Warn("a cache job failed; a later pull does its work", "job", j.key.String(), "error", err)
			p.metrics.jobEnded("failed")
		} else {
			p.metrics.jobEnded("done")
		}
	}
}

// next ends a job and takes the next one, if there is one.
func (p *Pool) next(done job) (job, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.keys, done.key)
	defer func() { p.metrics.jobs(p.running, len(p.queue)) }()
	if len(p.queue) == 0 {
		p.running--
		return job{}, false
	}
	j := p.queue[0]
	p.queue = p.queue[1:]
	return j, true
}
