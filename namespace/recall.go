package namespace

import (
	"context"
	"errors"
	"fmt"
	"io"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/download"
)

// Content that is not stored here may be at an origin, such as a bucket that several
// mirrors share. Blobs come from there by their downloads. Manifests have none: they are
// recalled into the store, by a repository that has a link to them.

// recall stores a manifest that an origin has, and reports whether it is stored now.
// Requests for the same manifest share one recall.
func (c *Cache) recall(ctx context.Context, repo storage.RepoID, link ocispec.Descriptor) bool {
	if len(c.origins) == 0 || link.Size <= 0 || link.Size > oci.DefaultMaxManifest {
		return false
	}
	answer, err := c.recalls.Do(ctx, link.Digest, func(ctx context.Context) (bool, error) {
		for _, origin := range c.origins {
			err := c.recallFrom(ctx, origin, repo.Namespace, link)
			if err == nil {
				return true, nil
			}
			if !errors.Is(err, storage.ErrNotExist) {
				c.logger.Debug("cannot recall a manifest", "digest", link.Digest, "error", err)
			}
		}
		return false, nil
	})
	return err == nil && answer.Value
}

// recallFrom stores a manifest of one origin.
func (c *Cache) recallFrom(ctx context.Context, origin download.Origin, block string, link ocispec.Descriptor) error {
	stream, err := origin.Open(ctx, download.Want{Digest: link.Digest, Block: block})
	if err != nil {
		return err
	}
	defer stream.Close()
	reject := func(why error) error {
		if stream.Reject != nil {
			stream.Reject()
		}
		return fmt.Errorf("%w: %s from %s: %w", storage.ErrCorrupt, link.Digest, stream.Origin, why)
	}
	if stream.Size != link.Size {
		return reject(fmt.Errorf("%d bytes instead of %d", stream.Size, link.Size))
	}
	s, err := c.spools.CreateNoWait(block, link.Size)
	if err != nil {
		return err
	}
	defer s.Close()
	verifier := link.Digest.Verifier()
	if _, err := io.Copy(s, io.TeeReader(io.LimitReader(stream, link.Size), verifier)); err != nil {
		return err
	}
	if !verifier.Verified() {
		return reject(errors.New("the digest differs"))
	}
	if err := s.Complete(); err != nil {
		return err
	}
	return c.store.Commit(ctx, link.Digest, s)
}

// recallBlob opens a blob of a namespace that is offline, if an origin has it.
func (n *Namespace) recallBlob(ctx context.Context, repo storage.RepoID, link ocispec.Descriptor) (*Blob, error) {
	missing := n.offline("blob " + link.Digest.String())
	if len(n.cache.origins) == 0 {
		return nil, missing
	}
	object, reader, err := n.cache.downloads.Open(ctx, link.Digest, download.Source{
		Repository: repo,
		Size:       link.Size,
		Open:       func(context.Context, int64, int64) (*download.Stream, error) { return nil, missing },
	})
	if err != nil {
		return nil, err
	}
	if object != nil {
		return &Blob{Outcome: Outcome{Cache: Hit}, Size: object.Size, Content: object.Content}, nil
	}
	size, err := await(reader, 0, -1)
	if err != nil {
		reader.Close()
		return nil, err
	}
	return &Blob{Outcome: downloading(reader), Size: size, Content: reader}, nil
}
