package catalog

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
)

const (
	// pinsSegment begins the keys of pins. They are of no sort, so that they are never removed
	// to make room or with old records.
	pinsSegment = "_pins"
	// pinVersion is the version of the records of pins. A record of another version counts as
	// absent.
	pinVersion = 1
	// MaxPins is how many pins there may be. All of them are read together.
	MaxPins = 1000
)

// Pin says that an image is to be kept.
type Pin struct {
	Version int            `json:"version"`
	Repo    storage.RepoID `json:"repository"`
	Tag     string         `json:"tag,omitempty"` // empty if the manifest is pinned by its digest
	Digest  digest.Digest  `json:"digest"`        // that the tag was last seen to name
	Since   time.Time      `json:"since"`
	By      string         `json:"by"` // the user or address that asked for it
}

// key returns the key of the record of a pin.
func (p Pin) key() string {
	of := p.Tag
	if of == "" {
		of = p.Digest.String()
	}
	sum := sha256.Sum256([]byte(p.Repo.Namespace + "\x00" + p.Repo.Name + "\x00" + of))
	return pinsSegment + "/" + hex.EncodeToString(sum[:])
}

// Pins returns the pins, the oldest first, and a bounded number of them.
func (c *Catalog) Pins(ctx context.Context) ([]Pin, error) {
	var pins []Pin
	for key, err := range c.records.List(ctx, pinsSegment) {
		if err != nil {
			return nil, fmt.Errorf("storage: cannot list the pins: %w", err)
		}
		if len(pins) == MaxPins {
			break
		}
		pin, err := c.pins.get(ctx, key)
		if errors.Is(err, storage.ErrNotExist) { // unreadable, or deleted since it was listed
			continue
		}
		if err != nil {
			return nil, err
		}
		pins = append(pins, pin)
	}
	slices.SortFunc(pins, func(a, b Pin) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.key(), b.key())) })
	return pins, nil
}

// Pin returns the record of a pin of the same image, or ErrNotExist.
func (c *Catalog) Pin(ctx context.Context, like Pin) (Pin, error) {
	return c.pins.get(ctx, like.key())
}

// PutPin creates or replaces a pin.
func (c *Catalog) PutPin(ctx context.Context, pin Pin) error {
	pin.Version = pinVersion
	if err := checkRepository(pin.Repo); err != nil {
		return err
	}
	return c.pins.put(ctx, pin.key(), pin)
}

// DeletePin removes a pin, or returns ErrNotExist.
func (c *Catalog) DeletePin(ctx context.Context, pin Pin) error { return c.pins.delete(ctx, pin.key()) }

func validPin(key string, p Pin) error {
	if p.Version != pinVersion || len(p.By) > maxEntry || strings.Contains(p.Tag, "/") || key != p.key() {
		return fmt.Errorf("%w: a pin in version %d of its format, or of another image than its key", storage.ErrInvalidRecord, p.Version)
	}
	return storage.ValidateDigest(p.Digest)
}
