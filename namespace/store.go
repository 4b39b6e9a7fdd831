package namespace

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/spool"
)

// keep stores a manifest that repo's upstream has just delivered, and records that
// repo may serve it and that tag, if it is not empty, names it. It reports whether
// the manifest is stored; if not, it is served anyway. Clients wait for
// keep, so if room has to be made first, a job of the pool stores the manifest.
func (c *Cache) keep(ctx context.Context, repo storage.RepoID, tag string, m *oci.Manifest) bool {
	desc, says := m.Descriptor, seen{desc: m.Descriptor, at: time.Now(), stored: true, fallback: m.Fallback}
	err := c.put(ctx, c.spools.CreateNoWait, repo.Namespace, desc.Digest, m.Body)
	if !errors.Is(err, spool.ErrBusy) {
		return c.kept(ctx, err, repo, tag, says)
	}
	// If the pool has no place, the manifest is served and not stored: a later
	// pull tries again.
	c.pool.Submit(storing{repo, tag, desc.Digest}, func(ctx context.Context) error {
		err := c.put(ctx, c.spools.Create, repo.Namespace, desc.Digest, m.Body)
		c.kept(ctx, err, repo, tag, says)
		return nil // the health of the store logs a failure
	})
	return false
}

// storing is the key of the job that stores a manifest. The tag is part of it:
// two tags of one manifest are recorded by two jobs.
type storing struct {
	repo   storage.RepoID
	tag    string
	digest digest.Digest
}

func (s storing) Block() string { return s.repo.Namespace }

func (s storing) String() string {
	if s.tag == "" {
		return fmt.Sprintf("store %s of %s", s.digest, s.repo)
	}
	return fmt.Sprintf("store %s of %s:%s", s.digest, s.repo, s.tag)
}

// put stores a small blob of a repository block that has been verified, in a spool
// from create.
func (c *Cache) put(ctx context.Context, create func(block string, size int64) (*spool.Spool, error), block string, dgst digest.Digest, body []byte) error {
	s, err := create(block, int64(len(body)))
	if err != nil {
		return err
	}
	defer s.Close()
	if _, err := s.Write(body); err != nil {
		return err
	}
	if err := s.Complete(); err != nil {
		return err
	}
	return c.store.Commit(ctx, dgst, s)
}

// kept records a manifest that was stored, unless storing it failed.
func (c *Cache) kept(ctx context.Context, failure error, repo storage.RepoID, tag string, says seen) bool {
	desc := says.desc
	if failure != nil {
		c.content.Failed(failure, "repository", repo.String(), "digest", desc.Digest)
		return false
	}
	c.content.Succeeded()
	if !c.putLink(ctx, repo, desc) {
		return false // a tag would lead to a manifest that the repository may not serve
	}
	c.book.Stored(ctx, repo, desc.Digest)
	if tag != "" {
		c.book.Observe(ctx, repo, tag, says)
	}
	return true
}
