package namespace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/notify"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
)

const (
	// maxPinned bounds the blobs of one pin, and maxHeld those of all pins together. Each takes
	// some 200 bytes.
	maxPinned = 10_000
	maxHeld   = 100_000
)

// Errors of [Pins].
var (
	ErrPinned      = errors.New("namespace: the image, or a part of it, is pinned")
	ErrTooManyPins = errors.New("namespace: there are too many pins")
	// ErrPinsFull says that an image has no room among the pins.
	ErrPinsFull = errors.New("namespace: the pinned images would take up too much of the store")
)

// PinsOptions are the parts of [Pins].
type PinsOptions struct {
	Catalog *catalog.Catalog
	// Stores have the content, the nearest first. Looking at it does not count as a use.
	Stores      []storage.Store
	MaxManifest int64 // bytes
	// Limit bounds the bytes of all pinned images; 0: no limit.
	Limit int64
	// Hold keeps blobs from eviction until its next call. Those of older pins come first.
	Hold func(ctx context.Context, contents []storage.Info)
	// Pause is the time between two looks at what the pins lead to.
	Pause  time.Duration
	Logger *slog.Logger
}

// Pinned is a pin and what it leads to.
type Pinned struct {
	catalog.Pin
	Bytes int64 // of all parts that are known, stored or not
}

// Pins keep images from eviction. A pinned tag is followed: the manifest that it names now is kept
// with all that it refers to, and one that it named before is not.
type Pins struct {
	opts    PinsOptions
	changed notify.Signal
	turn    sync.Mutex // of changes: the sum is compared with the limit
	failing bool
	over    bool // the pinned images exceed their limit

	mu         sync.Mutex
	known      map[digest.Digest]pinnedManifest
	remembered int // parts and manifests in known

	stop    context.CancelFunc
	running sync.WaitGroup
}

// NewPins returns the pins of a mirror. They keep images until Close.
func NewPins(opts PinsOptions) *Pins {
	ctx, cancel := context.WithCancel(context.Background())
	p := &Pins{opts: opts, changed: notify.NewSignal(), stop: cancel}
	p.running.Go(func() { p.run(ctx) })
	return p
}

// Close ends the looks at the pins. What is kept stays so.
func (p *Pins) Close() {
	p.stop()
	p.running.Wait()
}

// Limit returns how many bytes all pinned images may have; 0: there is no limit.
func (p *Pins) Limit() int64 { return p.opts.Limit }

func (p *Pins) run(ctx context.Context) {
	ticker := time.NewTicker(p.opts.Pause)
	defer ticker.Stop()
	for {
		p.look(ctx)
		select {
		case <-ticker.C:
		case <-p.changed.C():
		case <-ctx.Done():
			return
		}
	}
}

// look has everything held that the pins lead to. If the records or the store fail, all stays as
// it is.
func (p *Pins) look(ctx context.Context) {
	contents, whole, err := p.contents(ctx, p.note)
	switch {
	case ctx.Err() != nil:
	case err != nil && !p.failing:
		p.opts.Logger.Warn("cannot read the pinned images, so content that they refer to may be evicted. Check that the store is readable", "error", err)
	case err == nil && !whole && !p.over:
		p.opts.Logger.Warn("the pinned images exceed their limit, so parts of the newest ones may be evicted. A pinned tag may have moved to a larger image: compare the sizes of weir pin, and unpin what is not needed, or give the store more room", "limit", p.opts.Limit)
	}
	if p.failing = err != nil; err == nil {
		p.over = !whole
		p.opts.Hold(ctx, contents)
	}
}

// note records the manifest that a pinned tag has moved to, unless the pin was removed meanwhile.
func (p *Pins) note(ctx context.Context, pin catalog.Pin) error {
	p.turn.Lock()
	defer p.turn.Unlock()
	_, err := p.opts.Catalog.Pin(ctx, pin)
	if err == nil {
		err = p.opts.Catalog.PutPin(ctx, pin)
	}
	if errors.Is(err, storage.ErrNotExist) {
		return nil
	}
	return err
}

// contents returns the blobs that the pins lead to, those of older pins first and within the
// limits. It notes pins whose tags have moved, if note is not nil.
func (p *Pins) contents(ctx context.Context, note func(context.Context, catalog.Pin) error) (contents []storage.Info, whole bool, err error) {
	pins, err := p.opts.Catalog.Pins(ctx)
	if err != nil {
		return nil, false, err
	}
	all, whole, err := p.together(ctx, pins, note)
	if err != nil {
		return nil, false, err
	}
	if p.exceeds(all) {
		if err := p.weigh(ctx, all); err != nil {
			return nil, false, err
		}
	}
	var bytes int64
	for _, part := range all {
		if p.opts.Limit > 0 && bytes+part.Size > p.opts.Limit {
			whole = false
			continue
		}
		bytes += part.Size
		contents = append(contents, part)
	}
	return contents, whole, nil
}

// together returns the blobs that some pins lead to, each once and behind those before them, and
// whether these are all.
func (p *Pins) together(ctx context.Context, pins []catalog.Pin, note func(context.Context, catalog.Pin) error, before ...storage.Info) (all []storage.Info, whole bool, err error) {
	seen := make(map[digest.Digest]bool, len(before))
	for _, content := range before {
		seen[content.Digest] = true
	}
	all, whole = before, true
	for _, pin := range pins {
		parts, err := p.parts(ctx, &pin, note)
		if err != nil {
			return nil, false, err
		}
		for _, part := range parts {
			if seen[part.Digest] {
				continue
			}
			if len(all) == maxHeld {
				whole = false
				break
			}
			seen[part.Digest] = true
			all = append(all, part)
		}
	}
	return all, whole, nil
}

// exceeds reports whether blobs have more bytes than the limit.
func (p *Pins) exceeds(contents []storage.Info) bool {
	var bytes int64
	for _, content := range contents {
		bytes += content.Size
		if p.opts.Limit > 0 && bytes > p.opts.Limit {
			return true
		}
	}
	return false
}

// weigh replaces the announced sizes of blobs by those of what is stored. What is not stored takes
// no room. So an upstream that invents sizes takes none from the pins of others.
func (p *Pins) weigh(ctx context.Context, contents []storage.Info) error {
	for i := range contents {
		contents[i].Size = 0
		for _, store := range p.opts.Stores {
			info, err := store.Stat(ctx, contents[i].Digest)
			if err == nil {
				contents[i].Size = info.Size
				break
			}
			if !errors.Is(err, storage.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// PinnedContents returns the blobs that pins lead to, for commands that run next to a mirror.
func PinnedContents(ctx context.Context, opts PinsOptions) (map[digest.Digest]bool, error) {
	contents, _, err := (&Pins{opts: opts}).contents(ctx, nil)
	pinned := make(map[digest.Digest]bool, len(contents))
	for _, content := range contents {
		pinned[content.Digest] = true
	}
	return pinned, err
}

// parts returns the manifest that a pin leads to, and all that it refers to. A tag that has moved
// is followed, and noted if note is not nil. A tag that is gone leads to its last manifest.
func (p *Pins) parts(ctx context.Context, pin *catalog.Pin, note func(context.Context, catalog.Pin) error) (parts []storage.Info, err error) {
	if pin.Tag != "" {
		tag, err := p.opts.Catalog.Tag(ctx, pin.Repo, pin.Tag)
		if err != nil && !errors.Is(err, storage.ErrNotExist) {
			return nil, err
		}
		if err == nil && tag.Descriptor.Digest != pin.Digest {
			pin.Digest = tag.Descriptor.Digest
			if note != nil {
				if err := note(ctx, *pin); err != nil {
					return nil, err
				}
			}
		}
	}
	seen := map[digest.Digest]bool{pin.Digest: true}
	todo := []storage.Info{{Digest: pin.Digest}}
	for len(todo) > 0 {
		manifest := todo[0]
		todo = todo[1:]
		m, err := p.read(ctx, pin, manifest)
		if err != nil {
			return nil, err
		}
		parts = append(parts, storage.Info{Digest: manifest.Digest, Size: m.size})
		for _, part := range m.parts {
			if seen[part.Digest] || len(seen) == maxPinned {
				continue
			}
			seen[part.Digest] = true
			if part.manifest {
				todo = append(todo, part.Info)
			} else {
				parts = append(parts, part.Info)
			}
		}
	}
	return parts, nil
}

// pinnedManifest is a manifest that a pin leads to.
type pinnedManifest struct {
	size  int64
	parts []pinnedPart
}

// pinnedPart is a blob that a manifest refers to.
type pinnedPart struct {
	storage.Info
	manifest bool
}

// read reads a manifest of a pin from memory or the first store that has it. One that no store has,
// or that has another form, refers to nothing. Nor does one that the repository has not got from its
// upstream: another one may have it, and its clients keep it to themselves.
func (p *Pins) read(ctx context.Context, pin *catalog.Pin, manifest storage.Info) (pinnedManifest, error) {
	unread := pinnedManifest{size: min(manifest.Size, maxPinSize)}
	if manifest.Digest != pin.Digest {
		if _, err := p.opts.Catalog.Link(ctx, pin.Repo, manifest.Digest); errors.Is(err, storage.ErrNotExist) {
			return unread, nil
		} else if err != nil {
			return unread, err
		}
	}
	p.mu.Lock()
	known, ok := p.known[manifest.Digest]
	p.mu.Unlock()
	if ok {
		return known, nil
	}
	for _, store := range p.opts.Stores {
		obj, err := store.Open(ctx, manifest.Digest)
		if errors.Is(err, storage.ErrNotExist) {
			continue
		}
		if err != nil {
			return pinnedManifest{}, err
		}
		links, err := oci.ReadReferences(obj.Content, p.opts.MaxManifest)
		obj.Content.Close()
		if ctx.Err() != nil {
			return pinnedManifest{}, ctx.Err()
		}
		m := pinnedManifest{size: obj.Size}
		if err == nil {
			m.parts = partsOf(links)
		}
		p.remember(manifest.Digest, m)
		return m, nil
	}
	return unread, nil
}

func partsOf(links oci.Links) (parts []pinnedPart) {
	manifests := len(links.Manifests)
	for _, desc := range slices.Concat(links.Manifests, oci.Links{Layers: links.Layers, Blobs: links.Blobs, Config: links.Config}.Content()) {
		parts = append(parts, pinnedPart{storage.Info{Digest: desc.Digest, Size: min(desc.Size, maxPinSize)}, len(parts) < manifests})
	}
	return parts
}

// remember keeps the parts of a manifest in memory. They never change.
func (p *Pins) remember(dgst digest.Digest, m pinnedManifest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.remembered+len(m.parts)+1 > maxHeld { // rare, and costs one reading of each
		p.known, p.remembered = nil, 0
	}
	if p.known == nil {
		p.known = make(map[digest.Digest]pinnedManifest)
	}
	p.known[dgst] = m
	p.remembered += len(m.parts) + 1
}

// maxPinSize bounds the size that a descriptor gives: it is an upstream's word, and sizes are
// added up.
const maxPinSize = 1 << 40

// All returns the pins, the oldest first.
func (p *Pins) All(ctx context.Context) ([]Pinned, error) {
	pins, err := p.opts.Catalog.Pins(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]Pinned, 0, len(pins))
	for _, pin := range pins {
		one, err := p.measure(ctx, pin)
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, nil
}

// measure adds up the parts of a pin.
func (p *Pins) measure(ctx context.Context, pin catalog.Pin) (Pinned, error) {
	parts, err := p.parts(ctx, &pin, nil)
	one := Pinned{Pin: pin}
	for _, part := range parts {
		one.Bytes += part.Size
	}
	return one, err
}

// Pin pins a tag or a manifest of a repository. A pin that is there stays as it is. It returns
// storage.ErrNotExist if the image is not cached, ErrTooManyPins or ErrPinsFull.
func (p *Pins) Pin(ctx context.Context, repo storage.RepoID, s Selection, by string) (Pinned, error) {
	p.turn.Lock()
	defer p.turn.Unlock()
	pin := catalog.Pin{Repo: repo, Tag: s.Tag, Digest: s.Digest, Since: time.Now().UTC(), By: by}
	if known, err := p.opts.Catalog.Pin(ctx, pin); err == nil {
		return p.measure(ctx, known)
	}
	if err := p.resolve(ctx, &pin); err != nil {
		return Pinned{}, err
	}
	one, err := p.measure(ctx, pin)
	if err != nil {
		return Pinned{}, err
	}
	if err := p.fits(ctx, one); err != nil {
		return Pinned{}, err
	}
	if err := p.opts.Catalog.PutPin(ctx, pin); err != nil {
		return Pinned{}, err
	}
	p.changed.Notify()
	return one, nil
}

// resolve finds the manifest of a new pin.
func (p *Pins) resolve(ctx context.Context, pin *catalog.Pin) error {
	if pin.Tag != "" {
		tag, err := p.opts.Catalog.Tag(ctx, pin.Repo, pin.Tag)
		pin.Digest = tag.Descriptor.Digest
		return err
	}
	link, err := p.opts.Catalog.Link(ctx, pin.Repo, pin.Digest)
	if err == nil && link.MediaType == "" {
		err = fmt.Errorf("%w: %s is not a manifest", storage.ErrNotExist, pin.Digest)
	}
	return err
}

// fits returns an error if a further pin is beyond the limits.
func (p *Pins) fits(ctx context.Context, one Pinned) error {
	pins, err := p.opts.Catalog.Pins(ctx)
	if err != nil {
		return err
	}
	if len(pins) >= catalog.MaxPins {
		return ErrTooManyPins
	}
	older, whole, err := p.together(ctx, pins, nil)
	if err != nil {
		return err
	}
	all, more, err := p.together(ctx, []catalog.Pin{one.Pin}, nil, older...)
	if err != nil || whole && more && !p.exceeds(all) {
		return err
	}
	if err := p.weigh(ctx, all[:len(older)]); err != nil { // the new one counts with what it will take
		return err
	}
	if !whole || !more || p.exceeds(all) {
		return ErrPinsFull
	}
	return nil
}

// Unpin removes a pin and returns it, or returns storage.ErrNotExist.
func (p *Pins) Unpin(ctx context.Context, repo storage.RepoID, s Selection) (Pinned, error) {
	p.turn.Lock()
	defer p.turn.Unlock()
	pin, err := p.opts.Catalog.Pin(ctx, catalog.Pin{Repo: repo, Tag: s.Tag, Digest: s.Digest})
	if err != nil {
		return Pinned{}, err
	}
	one, err := p.measure(ctx, pin)
	if err == nil {
		err = p.opts.Catalog.DeletePin(ctx, pin)
	}
	p.changed.Notify()
	return one, err
}

// pinned returns an error if some tags or blobs of a repository are those of a pin.
func (r *Remover) pinned(ctx context.Context, repo storage.RepoID, g *graph, s Selection, tags []string, gone []digest.Digest) error {
	pins, err := r.opts.Cache.catalog.Pins(ctx)
	if err != nil {
		return err
	}
	kept := make(map[digest.Digest]bool)
	for _, pin := range pins {
		switch {
		case pin.Repo != repo:
			continue
		case s == (Selection{}):
			return ErrPinned
		}
		g.reach(pin.Digest, kept)
		if now := g.tags[pin.Tag]; now != "" {
			g.reach(now, kept)
		}
		if slices.Contains(tags, pin.Tag) {
			return ErrPinned
		}
	}
	for _, dgst := range gone {
		if kept[dgst] {
			return ErrPinned
		}
	}
	return nil
}
