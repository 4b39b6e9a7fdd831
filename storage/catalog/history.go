package catalog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
)

const (
	// historyVersion is the version of the records of histories. A record of another version
	// counts as absent.
	historyVersion = 1
	// maxHistory is how many manifests a history has, the last ones.
	maxHistory = 100
	// historyAge is how long a manifest stays in a history after it was last seen.
	historyAge = 365 * 24 * time.Hour
)

// Named is a manifest that a tag named for some time.
type Named struct {
	Digest digest.Digest `json:"digest"`
	First  time.Time     `json:"first,omitzero"` // when the tag was first seen to name it; the zero time if that is not known
	Last   time.Time     `json:"last"`           // when the tag was last seen to name it
}

// History has the manifests that a tag named before the one of its record, the last one first.
type History struct {
	Version int     `json:"version"`
	Named   []Named `json:"named"`
}

// History returns the manifests that a tag named before, the last one first, none if it was
// never seen to move.
func (c *Catalog) History(ctx context.Context, repo storage.RepoID, tag string) ([]Named, error) {
	key, err := leafKey(repo, historySegment, tag)
	if err != nil {
		return nil, err
	}
	history, err := c.histories.get(ctx, key)
	if errors.Is(err, storage.ErrNotExist) {
		return nil, nil
	}
	return recent(history.Named), err
}

// AddHistory adds a manifest that a tag no longer names to the tag's history. A manifest that
// was not seen for a year is left out, and so is any beyond the last hundred.
func (c *Catalog) AddHistory(ctx context.Context, repo storage.RepoID, tag string, named Named) error {
	key, err := leafKey(repo, historySegment, tag)
	if err != nil {
		return err
	}
	return c.histories.replace(ctx, key, func(known History) (History, bool) {
		next := recent(append([]Named{named}, known.Named...))
		return History{Version: historyVersion, Named: next[:min(len(next), maxHistory)]}, true
	})
}

// recent returns the manifests that were seen within a year.
func recent(named []Named) []Named {
	return slices.DeleteFunc(slices.Clone(named), func(n Named) bool { return time.Since(n.Last) > historyAge })
}

func validHistory(_ string, h History) error {
	if h.Version != historyVersion || len(h.Named) > maxHistory {
		return fmt.Errorf("%w: a history of %d manifests in version %d of its format", storage.ErrInvalidRecord, len(h.Named), h.Version)
	}
	for _, n := range h.Named {
		if err := storage.ValidateDigest(n.Digest); err != nil {
			return err
		}
	}
	return nil
}
