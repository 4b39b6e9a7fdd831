package api

import (
	"context"
	"sync"
	"time"

	"github.com/weirhq/weir/storage"
)

const (
	// figuresAge is for how long the figures of a repository count: pulls are written each
	// minute too.
	figuresAge = time.Minute
	// maxFigures is how many repositories have figures in memory. They take 200 bytes each.
	maxFigures = 2 * maxSorted
	// patience is how long a list waits for figures that may be older or missing in it. The
	// records of a large store are read for seconds.
	patience = 100 * time.Millisecond
)

// figures are the numbers of a repository in a list.
type figures struct {
	tags  int
	size  int64
	pulls int64
	last  time.Time
	read  time.Time // the zero time: not counted yet
}

// counting are repositories whose figures are counted in the background, one after the other.
type counting struct {
	mu      sync.Mutex
	queue   []storage.RepoID
	counted map[storage.RepoID]chan struct{} // closed when a repository of the queue is done
}

// figuresOf returns figures that are a minute old at most. With Soon, they may be older, or
// missing, if counting takes longer than the time of patient.
func (h *Handler) figuresOf(ctx, patient context.Context, repo storage.RepoID, soon bool) (figures, error) {
	f, ok := h.figures.Get(repo)
	if ok && time.Since(f.read) < figuresAge {
		return f, nil
	}
	if err := ctx.Err(); err != nil {
		return figures{}, err
	}
	if !soon {
		return h.readFigures(ctx, repo)
	}
	counted := h.count(repo)
	select {
	case <-counted:
	case <-patient.Done():
	}
	if newer, ok := h.figures.Get(repo); ok {
		f = newer
	}
	return f, ctx.Err()
}

// readFigures counts a repository.
func (h *Handler) readFigures(ctx context.Context, repo storage.RepoID) (figures, error) {
	known, err := h.opts.Inventory.Repository(ctx, repo)
	if err != nil {
		return figures{}, err
	}
	f := figures{known.Tags, known.Size, known.Pulls.Total, known.Pulls.Last, time.Now()}
	h.figures.Add(repo, f)
	return f, nil
}

// count makes the background count a repository, and returns a channel that is closed when that is
// done or has failed. The queue holds no more repositories than are sorted at once.
func (h *Handler) count(repo storage.RepoID) <-chan struct{} {
	c := &h.counting
	c.mu.Lock()
	defer c.mu.Unlock()
	if counted := c.counted[repo]; counted != nil || len(c.queue) >= maxFigures {
		return counted
	}
	if c.counted == nil { // no goroutine counts
		c.counted = make(map[storage.RepoID]chan struct{})
		go h.countAll()
	}
	counted := make(chan struct{})
	c.counted[repo], c.queue = counted, append(c.queue, repo)
	return counted
}

// countAll counts the repositories of the queue, until none is left or the handler is closed.
func (h *Handler) countAll() {
	c := &h.counting
	for {
		c.mu.Lock()
		if len(c.queue) == 0 {
			c.counted, c.queue = nil, nil
			c.mu.Unlock()
			return
		}
		repo := c.queue[0]
		c.queue = c.queue[1:]
		c.mu.Unlock()
		// A failure shows when the list is asked for without Soon.
		_, _ = h.readFigures(h.closing, repo)
		c.mu.Lock()
		close(c.counted[repo])
		delete(c.counted, repo)
		c.mu.Unlock()
	}
}
