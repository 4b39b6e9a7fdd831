package namespace

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/namespace/keepwarm"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/warm"
)

// maxRetries is how often a warming starts a download again that another
// repository's upstream failed to deliver. Each start asks the repository's own
// upstream unless yet another download has begun meanwhile.
const maxRetries = 3

// errNotStored says that content came from an upstream and is not in the store. The
// health of the store has logged the reason.
var errNotStored = errors.New("was fetched from the upstream but could not be stored. Check the log for the reason, and the size of the store")

// Images returns the images to keep warm: none while the namespace is offline.
func (n *Namespace) Images() []keepwarm.Image {
	if n.spec.Offline {
		return nil
	}
	return n.spec.Warm
}

// MaxManifest is the largest manifest that the namespace serves, in bytes.
func (n *Namespace) MaxManifest() int64 { return n.spec.MaxManifest }

// Warm reads a repository through the cache, by its name with or without the
// namespace's key.
func (n *Namespace) Warm(name string) (storage.RepoID, warm.Source) {
	repo := n.spec.Rule().Upstream(name)
	return n.repoID(repo), warmSource{n, repo}
}

// warmSource is a repository of a namespace as a warming reads it.
type warmSource struct {
	namespace *Namespace
	repo      string
}

// Manifest reads a manifest through the cache. It returns an error if the manifest
// could not be stored.
func (s warmSource) Manifest(ctx context.Context, ref oci.Reference) (warm.Manifest, error) {
	n := s.namespace
	key := lookupKey{n.repoID(s.repo), getManifest, ref.Question()}
	known := n.known(ctx, key.repo, ref)
	// A warming is there to find out that a tag has moved, and no client waits for it.
	if known.state == overdue {
		known.state = due
	}
	m, err := n.manifest(ctx, key, known)
	if err != nil {
		return warm.Manifest{}, markNotFound(err)
	}
	defer m.Content.Close()
	// Warming again later may find room in the store.
	if m.Cache == Passed {
		return warm.Manifest{}, errNotStored
	}
	body, err := oci.ReadManifest(m.Content, n.spec.MaxManifest)
	return warm.Manifest{Body: body, There: m.Cache.Cached(), Stale: m.Warning}, err
}

func (s warmSource) Referrers(ctx context.Context, subject digest.Digest) ([]ocispec.Descriptor, error) {
	r, err := s.namespace.Referrers(ctx, s.repo, subject, "")
	if err != nil {
		return nil, err
	}
	return r.Index.Manifests, nil
}

// Blob brings a blob into the cache. It waits for the end of a download, and reads
// nothing of it. A warming that is cancelled gives up downloads that only it
// wanted.
func (s warmSource) Blob(ctx context.Context, desc ocispec.Descriptor, _ bool, _ func(int64)) (there bool, err error) {
	n, id := s.namespace, s.namespace.repoID(s.repo)
	var failed error
	apart := false
	for range maxRetries {
		b, err := n.openBlob(ctx, id, desc.Digest, 0, -1, apart)
		if errors.Is(err, errNotShown) && !apart {
			apart = true
			continue
		}
		if err != nil {
			return false, markNotFound(err)
		}
		// The blob is stored, and the repository may have it.
		if b.reader == nil {
			b.Content.Close()
			return true, checkSize(desc, b.Size)
		}
		failed = b.reader.Complete()
		// Another repository's upstream failed: this repository's own may do better.
		switch {
		// Then the repository proves its possession, with the next openBlob.
		case failed == nil && b.reader.Repository() != id:
			if err := n.arrivedWhole(ctx, desc); err != nil {
				return false, err
			}
			failed = errNotStored // if it is evicted before that, each time
		case failed == nil:
			return false, n.arrivedWhole(ctx, desc)
		case ctx.Err() != nil:
			return false, context.Cause(ctx)
		case b.reader.Repository() == id:
			n.rememberNegative(ctx, blobKey(id, desc.Digest), failed)
			return false, markNotFound(failed)
		}
	}
	return false, failed
}

// arrivedWhole checks that a blob whose download has ended is in the store: a download
// succeeds even if only storing it failed.
func (n *Namespace) arrivedWhole(ctx context.Context, desc ocispec.Descriptor) error {
	info, err := n.cache.store.Stat(ctx, desc.Digest)
	if errors.Is(err, storage.ErrNotExist) {
		return errNotStored
	}
	if err != nil {
		return err
	}
	return checkSize(desc, info.Size)
}

// markNotFound marks a registry's word that it does not have a blob.
func markNotFound(err error) error {
	if errors.Is(upstream.Doubt(err), upstream.ErrNotFound) {
		return warm.NotFound(err)
	}
	return err
}

func checkSize(desc ocispec.Descriptor, size int64) error {
	if desc.Size != size {
		return fmt.Errorf("has %d bytes, but %d where it is listed", size, desc.Size)
	}
	return nil
}
