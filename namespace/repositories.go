package namespace

import (
	"context"
	"sync"
	"time"

	"github.com/weirhq/weir/storage"
)

const (
	// relistPause is how long the list of the cached repositories is used without
	// reading the records again: they may have been removed, by weir gc for example.
	relistPause = 5 * time.Second
	// relistShare bounds the time that listing takes on a large store, to one part in
	// twenty.
	relistShare = 20
	// relistWait is how long a caller waits for a new list if there is an older one: millions
	// of records take seconds.
	relistWait = 100 * time.Millisecond
	// maxRepositories bounds the list. The names of that many take about 10 MB.
	maxRepositories = 100_000
)

// repositories holds the list of the cached repositories in memory. New ones are added
// as they come.
type repositories struct {
	mu      sync.Mutex
	known   map[storage.RepoID]bool
	added   []storage.RepoID // since the last listing began
	current []storage.RepoID
	until   time.Time // when the records are listed again
}

// add notes that a repository has something cached.
func (r *repositories) add(repo storage.RepoID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known == nil || r.known[repo] || len(r.known) == maxRepositories { // nil: not listed yet
		return
	}
	r.known[repo] = true
	r.added = append(r.added, repo)
	r.current = append(r.current, repo) // a list that was handed out keeps its length
}

// load returns the list. It is fresh if the records need not be listed, and usable if a list that
// was fresh may stand in for one that is late.
func (r *repositories) load() (list []storage.RepoID, fresh, usable bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.current, r.known != nil && time.Now().Before(r.until), !r.until.IsZero()
}

// outdate makes the next use of the list read the records again.
func (r *repositories) outdate() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.until = time.Time{}
}

// begin is called before the records are listed: repositories that come meanwhile may
// be missing in the list.
func (r *repositories) begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.added = nil
	if r.known == nil {
		r.known = make(map[storage.RepoID]bool)
	}
}

// replace takes a list of the records that took a time.
func (r *repositories) replace(listed []storage.RepoID, took time.Duration) []storage.RepoID {
	r.mu.Lock()
	defer r.mu.Unlock()
	known := make(map[storage.RepoID]bool, len(listed))
	list := make([]storage.RepoID, 0, len(listed))
	for _, part := range [][]storage.RepoID{listed, r.added} {
		for _, repo := range part {
			if !known[repo] && len(known) < maxRepositories {
				known[repo] = true
				list = append(list, repo)
			}
		}
	}
	r.known, r.added = known, nil
	r.current = list
	r.until = time.Now().Add(max(relistPause, took*relistShare))
	return r.current
}

// Repositories returns the repositories that have something cached, in no particular
// order. The list comes from memory. It is shared, and must not be changed: a change of
// the repositories makes a longer list or another one. All callers share one listing of
// the records, at most each few seconds. While a listing takes long, they get the list before it,
// unless there is none or it is known to be wrong. A listing goes on if the context ends, whose
// error is returned then.
func (c *Cache) Repositories(ctx context.Context) ([]storage.RepoID, error) {
	older, fresh, usable := c.repositories.load()
	if fresh {
		return older, nil
	}
	listed := make(chan struct{})
	var list []storage.RepoID
	var err error
	go func() { // the listing goes on when its callers have left
		defer close(listed)
		list, err = c.relist(context.WithoutCancel(ctx))
	}()
	var late <-chan time.Time // never, without an older list
	if usable {
		late = time.After(relistWait)
	}
	select {
	case <-listed:
		return list, err
	case <-late:
		return older, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// relist lists the records, once for all callers.
func (c *Cache) relist(ctx context.Context) ([]storage.RepoID, error) {
	answer, err := c.listings.Do(ctx, struct{}{}, func(ctx context.Context) ([]storage.RepoID, error) {
		began := time.Now()
		c.repositories.begin()
		listed, err := c.catalog.Repositories(ctx)
		if err != nil {
			return nil, err
		}
		return c.repositories.replace(listed, time.Since(began)), nil
	})
	return answer.Value, err
}
