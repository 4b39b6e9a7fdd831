package download

import (
	"context"
	"errors"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
)

// ErrForgotten says that the content was taken out of the cache while it was downloaded.
var ErrForgotten = errors.New("storage: the content was removed from the cache during its download, and is not stored")

// Forget makes running downloads leave nothing behind: those that a repository began, of some blobs or,
// if gone is nil, of any. They are not stored, and prove no right. Their readers read on; other
// repositories that have joined one fetch the content again later. Downloads that no client reads
// end. The next request for the content starts another download. Forget returns how many downloads
// the repository had, whatever they were of.
//
// The store may be taking some of the content at that moment. Forget waits for the end of that,
// so the caller finds it stored. It returns the cause of the context's end if that comes first.
func (g *Group) Forget(ctx context.Context, repo storage.RepoID, gone map[digest.Digest]bool) (running int, err error) {
	running, late := g.forget(repo, gone)
	for _, d := range late {
		select {
		case <-d.done:
		case <-ctx.Done():
			return running, context.Cause(ctx)
		}
	}
	return running, nil
}

// forget is Forget without the wait. It returns the downloads that it came too late for.
func (g *Group) forget(repo storage.RepoID, gone map[digest.Digest]bool) (running int, late []*Download) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, d := range g.downloads {
		if d.src.Repository != repo {
			continue
		}
		running++
		if gone != nil && !gone[d.digest] {
			continue
		}
		if !d.forget() {
			late = append(late, d)
			continue
		}
		g.removeLocked(d)
	}
	return running, late
}

// forget gives up the content of a download, unless the store is taking it. The caller holds the
// mutex of the group, and takes the download out of the map.
func (d *Download) forget() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.phase >= committing {
		return false
	}
	close(d.forgotten)
	if d.holders == 0 {
		d.cancel() // else its last holder abandons it
	}
	return true
}

// isForgotten reports whether the content of a download was given up.
func (d *Download) isForgotten() bool {
	select {
	case <-d.forgotten:
		return true
	default:
		return false
	}
}
