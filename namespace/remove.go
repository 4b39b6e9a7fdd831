package namespace

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
)

const (
	// maxTaken is how many blobs one removal takes out: an image has some ten, and each costs
	// a few operations of the filesystem.
	maxTaken = 100_000
	// maxEdges is the usual value of [RemoverOptions.MaxEdges].
	maxEdges = 1 << 18
	// readsAtOnce is how many manifests are read at once: some come from a bucket.
	readsAtOnce = 8
	// takenAtOnce is how many blobs are taken out of a bucket at once.
	takenAtOnce = 1000
)

// ErrTooMany says that a removal would have to look at more objects than its limits allow.
var ErrTooMany = errors.New("namespace: the repository has too many objects for one removal")

// Selection is the part of a repository that a removal is about: a tag, a manifest or, if both
// are empty, all of it.
type Selection struct {
	Tag    string
	Digest digest.Digest
}

// Removed counts the parts of a removal.
type Removed struct {
	Tags      []string
	Manifests int   // that the repository may no longer serve
	Contents  int   // that are no longer stored, manifests included
	Bytes     int64 // of all that are no longer stored
}

// RemoverOptions are the parts of a [Remover].
type RemoverOptions struct {
	Cache *Cache
	// Stores have the manifests, the nearest first. Looking at one does not count as a use, so they are
	// drivers, and no store that evicts.
	Stores []storage.Store
	// Far, if set, takes blobs out of a store that mirrors share. They are taken out of the
	// store of the cache before.
	Far         func(ctx context.Context, contents []digest.Digest) error
	MaxManifest int64 // bytes
	// MaxEdges bounds the references between the blobs of a repository that are in memory; 0
	// means 262,144: those of 20,000 images, some 30 MB. Upstreams choose their number.
	MaxEdges int
}

// Remover takes images out of the cache. Pulls continue meanwhile: readers keep their open content and
// their downloads, which are not stored, and the next pull gets the image from the upstream again.
type Remover struct {
	opts RemoverOptions
	turn chan struct{} // one removal at a time: each lists the records
}

// NewRemover returns a Remover.
func NewRemover(opts RemoverOptions) *Remover {
	opts.MaxEdges = cmp.Or(opts.MaxEdges, maxEdges)
	return &Remover{opts: opts, turn: make(chan struct{}, 1)}
}

// Remove forgets tags and links, and deletes the blobs that nothing else refers to: no other
// repository, and no other tag or manifest of this one.
//
//	a tag        the tag, and its manifest unless another tag or an index names that
//	a manifest   the manifest, and the tags that name it
//	neither      all of the repository, its lists, pulls and histories included
//
// A manifest goes with its referrers and with all that it refers to. Contents go before the
// records that lead to them, so that a removal that broke off can be made once more.
//
// It returns storage.ErrNotExist if nothing of the selection is cached, ErrPinned, ErrTooMany, or an
// error of the store or the records.
func (r *Remover) Remove(ctx context.Context, repo storage.RepoID, s Selection) (Removed, error) {
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return Removed{}, ctx.Err()
	}
	g, tags, gone, err := r.prepare(ctx, repo, s)
	if err != nil {
		return Removed{}, err
	}
	// Once more, for the proofs and prefetches that have begun since the first time.
	defer r.opts.Cache.removals.note(repo)
	removed, err := r.take(ctx, repo, g, gone)
	if err != nil {
		return removed, err
	}
	for _, tag := range tags {
		if err := r.opts.Cache.book.Drop(ctx, repo, tag); err != nil {
			return removed, err
		}
		removed.Tags = append(removed.Tags, tag)
	}
	if s == (Selection{}) {
		err = r.opts.Cache.catalog.DeleteDependent(ctx, repo)
		r.opts.Cache.repositories.outdate()
	}
	return removed, err
}

// maxRounds bounds how often the records are read because a client was pulling meanwhile.
const maxRounds = 4

// prepare chooses what goes, and stops the downloads of it. While clients pull, further manifests and
// blobs may come that the selection leads to, so that it chooses again until it finds no more.
func (r *Remover) prepare(ctx context.Context, repo storage.RepoID, s Selection) (g *graph, tags []string, gone []digest.Digest, err error) {
	whole := s == (Selection{})
	read := make(map[digest.Digest]oci.Links) // manifests do not change
	going := make(map[digest.Digest]bool)
	for round := range maxRounds {
		if g, err = r.survey(ctx, repo, s, read); err != nil {
			return nil, nil, nil, err
		}
		tags, gone, err = g.choose(s)
		none := errors.Is(err, storage.ErrNotExist) // but for downloads, perhaps
		if err != nil && !none || none && !whole && round == 0 {
			return nil, nil, nil, err
		}
		if !none {
			if err := r.pinned(ctx, repo, g, s, tags, gone); err != nil {
				return nil, nil, nil, err
			}
		}
		known := len(going)
		for _, dgst := range gone {
			going[dgst] = true
		}
		if round > 0 && (whole || len(going) == known) {
			break
		}
		r.opts.Cache.removals.note(repo) // before Forget, see Group.Prefetch
		stopped := going
		if whole {
			stopped = nil // all
		}
		running, failed := r.opts.Cache.downloads.Forget(ctx, repo, stopped)
		if failed != nil {
			return nil, nil, nil, failed
		}
		if running == 0 && none && round == 0 {
			return nil, nil, nil, err
		}
		// All of a repository is chosen again in any case: a download may have ended just before.
		if running == 0 && !whole {
			break
		}
	}
	return g, tags, gone, nil
}

// graph has the blobs of a repository and the references between them.
type graph struct {
	tags map[string]digest.Digest
	// links has the blobs that the repository may serve, with their sizes, and manifests
	// those of them that are manifests.
	links     map[digest.Digest]int64
	manifests map[digest.Digest]bool
	refs      map[digest.Digest][]digest.Digest // of each manifest: its parts and its referrers
	edges     int
}

// survey reads the records of a repository and, unless all of it goes, those of its manifests that are not
// in read, to which it adds them.
func (r *Remover) survey(ctx context.Context, repo storage.RepoID, s Selection, read map[digest.Digest]oci.Links) (*graph, error) {
	g := &graph{
		tags: make(map[string]digest.Digest), links: make(map[digest.Digest]int64),
		manifests: make(map[digest.Digest]bool), refs: make(map[digest.Digest][]digest.Digest),
	}
	records := r.opts.Cache.catalog
	tags, err := records.Tags(ctx, repo)
	if err != nil {
		return nil, err
	}
	for _, name := range tags {
		tag, err := records.Tag(ctx, repo, name)
		switch {
		case errors.Is(err, storage.ErrNotExist): // it cannot be read, and goes with the rest
			g.tags[name] = ""
		case err != nil:
			return nil, err
		default:
			g.tags[name] = tag.Descriptor.Digest
			g.manifests[tag.Descriptor.Digest] = true
		}
	}
	for link, err := range records.Links(ctx, repo) {
		if err != nil {
			return nil, err
		}
		if len(g.links) == maxTaken {
			return nil, fmt.Errorf("%w: more than %d", ErrTooMany, maxTaken)
		}
		g.links[link.Digest] = link.Size
		if link.MediaType != "" {
			g.manifests[link.Digest] = true
		}
	}
	if s == (Selection{}) {
		return g, nil
	}
	return g, r.connect(ctx, g, read)
}

// connect reads the references of all manifests of a repository. A manifest that cannot be read
// has none.
func (r *Remover) connect(ctx context.Context, g *graph, read map[digest.Digest]oci.Links) error {
	var mu sync.Mutex
	reading, ctx := errgroup.WithContext(ctx)
	reading.SetLimit(readsAtOnce)
	for dgst := range g.manifests {
		reading.Go(func() error {
			mu.Lock()
			links, known := read[dgst]
			mu.Unlock()
			if !known {
				var err error
				if links, known, err = r.linksOf(ctx, dgst); err != nil {
					return err
				}
			}
			mu.Lock()
			defer mu.Unlock()
			if known { // else it may come while the removal goes on
				read[dgst] = links
			}
			for _, part := range links.Content() {
				g.refs[dgst] = append(g.refs[dgst], part.Digest)
				g.edges++
			}
			if links.Subject != nil {
				g.refs[links.Subject.Digest] = append(g.refs[links.Subject.Digest], dgst)
				g.edges++
			}
			if g.edges > r.opts.MaxEdges {
				return fmt.Errorf("%w: its manifests have more than %d parts", ErrTooMany, r.opts.MaxEdges)
			}
			return nil
		})
	}
	return reading.Wait()
}

// linksOf returns the links of a stored manifest; none if it is another document than a manifest. It
// reports whether a store has it.
func (r *Remover) linksOf(ctx context.Context, dgst digest.Digest) (links oci.Links, stored bool, err error) {
	for _, store := range r.opts.Stores {
		obj, err := store.Open(ctx, dgst)
		if errors.Is(err, storage.ErrNotExist) {
			continue
		}
		if err != nil {
			return oci.Links{}, false, err
		}
		links, err := oci.ReadReferences(obj.Content, r.opts.MaxManifest)
		obj.Content.Close()
		if err != nil {
			return oci.Links{}, true, ctx.Err() // it leads nowhere
		}
		return links, true, nil
	}
	return oci.Links{}, false, nil
}

// choose returns the tags and the content that goes: first blobs, then manifests, and last the one
// that was selected, from which a second removal would start.
func (g *graph) choose(s Selection) (tags []string, gone []digest.Digest, err error) {
	var from digest.Digest
	var ok bool
	switch {
	case s.Tag != "":
		if from, ok = g.tags[s.Tag]; ok {
			tags = []string{s.Tag}
		}
	case s.Digest != "":
		if from, ok = s.Digest, g.manifests[s.Digest]; ok {
			tags = g.named(s.Digest)
		}
	default:
		ok = len(g.tags) > 0 || len(g.links) > 0
		tags = g.named("")
	}
	if !ok {
		return nil, nil, storage.ErrNotExist
	}
	goes := make(map[digest.Digest]bool)
	if s == (Selection{}) {
		for dgst := range g.links {
			goes[dgst] = true
		}
	} else if from != "" { // else the record of the tag cannot be read
		goes = g.exclusive(from, tags, s.Digest != "")
	}
	if len(goes) > maxTaken {
		return nil, nil, fmt.Errorf("%w: more than %d", ErrTooMany, maxTaken)
	}
	for dgst := range goes {
		gone = append(gone, dgst)
	}
	rank := func(dgst digest.Digest) int {
		switch {
		case dgst == from:
			return 2
		case g.manifests[dgst]:
			return 1
		default:
			return 0
		}
	}
	slices.SortFunc(gone, func(a, b digest.Digest) int { return rank(a) - rank(b) })
	return tags, gone, nil
}

// named returns the tags that name a manifest, or all tags if that is empty, in lexical order.
func (g *graph) named(dgst digest.Digest) (tags []string) {
	for tag, names := range g.tags {
		if dgst == "" || names == dgst {
			tags = append(tags, tag)
		}
	}
	slices.Sort(tags)
	return tags
}

// exclusive returns the blobs that only a manifest keeps, without some tags. The manifest is
// among them if it is forced, or if nothing else names it.
func (g *graph) exclusive(from digest.Digest, without []string, forced bool) map[digest.Digest]bool {
	goes, kept := make(map[digest.Digest]bool), make(map[digest.Digest]bool)
	g.reach(from, goes)
	if forced { // an index that names it does not lead to it any more
		kept[from] = true
	}
	for tag, dgst := range g.tags {
		if !slices.Contains(without, tag) {
			g.reach(dgst, kept)
		}
	}
	for dgst := range g.manifests {
		if !goes[dgst] {
			g.reach(dgst, kept)
		}
	}
	for dgst := range kept {
		if !forced || dgst != from {
			delete(goes, dgst)
		}
	}
	return goes
}

// reach adds a blob and all that it leads to.
func (g *graph) reach(from digest.Digest, reached map[digest.Digest]bool) {
	todo := []digest.Digest{from}
	for len(todo) > 0 {
		dgst := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if !reached[dgst] {
			reached[dgst] = true
			todo = append(todo, g.refs[dgst]...)
		}
	}
}

// take deletes blobs that no other repository possesses, and the links to all of them.
func (r *Remover) take(ctx context.Context, repo storage.RepoID, g *graph, gone []digest.Digest) (removed Removed, err error) {
	wanted := make(map[digest.Digest]bool, len(gone))
	for _, dgst := range gone {
		wanted[dgst] = true
	}
	elsewhere, err := r.opts.Cache.catalog.LinkedElsewhere(ctx, repo, wanted)
	if err != nil {
		return removed, err
	}
	for some := range slices.Chunk(gone, takenAtOnce) {
		var far []digest.Digest
		for _, dgst := range some {
			if elsewhere[dgst] {
				continue
			}
			far = append(far, dgst)
			if err := r.delete(ctx, g, dgst, &removed); err != nil {
				return removed, err
			}
		}
		if r.opts.Far != nil && len(far) > 0 {
			if err := r.opts.Far(ctx, far); err != nil {
				return removed, err
			}
		}
		for _, dgst := range some {
			if err := ctx.Err(); err != nil {
				return removed, err
			}
			err := r.opts.Cache.catalog.DeleteLink(ctx, repo, dgst)
			if err != nil && !errors.Is(err, storage.ErrNotExist) {
				return removed, err
			}
			if err == nil && g.manifests[dgst] {
				removed.Manifests++
			}
		}
	}
	return removed, nil
}

// delete deletes a content of the store, and counts it. With a bucket, content that is only there
// counts with the size in its link.
func (r *Remover) delete(ctx context.Context, g *graph, dgst digest.Digest, removed *Removed) error {
	size, linked := g.links[dgst]
	counts := linked && r.opts.Far != nil
	if info, err := r.opts.Stores[0].Stat(ctx, dgst); err == nil {
		size, counts = info.Size, true
	}
	if err := r.opts.Cache.store.Delete(ctx, dgst); err != nil && !errors.Is(err, storage.ErrNotExist) {
		return err
	}
	if counts {
		removed.Contents++
		removed.Bytes += size
	}
	return nil
}
