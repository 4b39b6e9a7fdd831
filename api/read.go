package api

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/weirhq/weir/access"
	"github.com/weirhq/weir/namespace/inventory"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
)

const (
	// usualPage and maxPage are how many entries a page of a list has without n, and at most.
	usualPage = 100
	maxPage   = 1000
	// maxText bounds the parameters q, block and last, which are names or parts of them.
	maxText = 512
	// sizing is how long the sizes of a list of tags may take. The other tags have none.
	sizing = 10 * time.Second
	// briefSizing is how long a page waits for them, which may have waited for other figures before.
	briefSizing = 50 * time.Millisecond
)

// page is the part of a list that a request asks for.
type page struct {
	n    int
	last string
}

// pageOf reads the parameters n and last.
func pageOf(query url.Values) (page, error) {
	n := usualPage
	if text := query.Get("n"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil || n == 0 {
			n = -1
		}
	}
	return boundedPage(n, query.Get("last"))
}

// boundedPage returns a page of n entries behind a last one; of 100 if n is 0. It returns an error
// if that are too many, or if one of the texts is too long.
func boundedPage(n int, last string, others ...string) (page, error) {
	for _, text := range append(others, last) {
		if len(text) > maxText {
			return page{}, invalid("a parameter is too long. Send at most " + strconv.Itoa(maxText) + " bytes")
		}
	}
	if n < 0 || n > maxPage {
		return page{}, invalid("the parameter n must be a number from 1 to " + strconv.Itoa(maxPage))
	}
	return page{cmp.Or(n, usualPage), last}, nil
}

// next returns the path and query of the page behind a last entry.
func next(r *http.Request, last string) string {
	query := r.URL.Query()
	query.Set("last", last)
	return r.URL.EscapedPath() + "?" + query.Encode()
}

// named returns the repository of a name. One that the client may not know of is as unknown as
// one that is not there.
func (h *Handler) named(ctx context.Context, name string) (Repository, error) {
	repo, ok := h.opts.Names.Find(name)
	// Names that are longer than any record's, or have another form, are never cached.
	if !ok || len(name) > maxText || !oci.ValidName(name) || !h.opts.Names.Sees(ctx, repo) {
		return Repository{}, unknownRepository(ctx)
	}
	return repo, nil
}

// unknownRepository is the error for a repository that the client may not know of. The rules may
// not have been asked if the context has ended.
func unknownRepository(ctx context.Context) error {
	return cmp.Or(ctx.Err(), error(&Failure{http.StatusNotFound, "NAME_UNKNOWN", "the mirror has no such repository, or this client may not pull from it. Begin its name with the key of the block, and in a path write the slashes of the name as %2F"}))
}

func (h *Handler) repository(ctx context.Context, r *http.Request) (any, error) {
	return h.Repository(ctx, r.PathValue("name"))
}

// Repository returns the figures of a repository.
func (h *Handler) Repository(ctx context.Context, name string) (RepositoryDocument, error) {
	repo, err := h.named(ctx, name)
	if err != nil {
		return RepositoryDocument{}, err
	}
	known, err := h.opts.Inventory.Repository(ctx, repo.ID)
	if err != nil {
		return RepositoryDocument{}, err
	}
	if known.Tags == 0 && known.Contents == 0 {
		return RepositoryDocument{}, &Failure{http.StatusNotFound, "NAME_UNKNOWN", "nothing of the repository is cached yet. Pull an image from it first"}
	}
	return RepositoryDocument{
		Name: repo.Name, Block: repo.Block, Tags: known.Tags, Contents: known.Contents, Size: known.Size,
		Pulls: documentOf(known.Pulls),
	}, nil
}

func (h *Handler) tags(ctx context.Context, r *http.Request) (any, error) {
	query := r.URL.Query()
	p, err := pageOf(query)
	if err != nil {
		return nil, err
	}
	if query.Has("sizes") && query.Get("sizes") != "true" {
		return nil, invalid("the parameter sizes must be true, or absent")
	}
	document, err := h.Tags(ctx, r.PathValue("name"), TagsQuery{N: p.n, Last: p.last, Sizes: query.Has("sizes")})
	if document.Next != "" {
		document.Next = next(r, document.Next)
	}
	return document, err
}

// TagsQuery selects one page of the tags of a repository.
type TagsQuery struct {
	N     int    // tags on the page; 0 for 100
	Last  string // the last tag of the page before; "" for the first page
	Sizes bool   // whether the document has sizes
	// Soon is set if the list must not wait for sizes that take long. Then they are missing.
	Soon bool
}

// Tags lists the tags of a repository that the client may pull. Next is the last one of the page if there is another page.
func (h *Handler) Tags(ctx context.Context, name string, q TagsQuery) (TagsDocument, error) {
	p, err := boundedPage(q.N, q.Last)
	if err != nil {
		return TagsDocument{}, err
	}
	repo, err := h.named(ctx, name)
	if err != nil {
		return TagsDocument{}, err
	}
	if !h.mayList(ctx, repo) {
		return TagsDocument{}, cmp.Or(ctx.Err(), errUnlisted())
	}
	all, err := h.opts.Inventory.Tags(ctx, repo.ID)
	if err != nil {
		return TagsDocument{}, err
	}
	start, found := slices.BinarySearch(all, p.last)
	if found {
		start++
	}
	shown := make([]string, 0, min(len(all)-start, p.n+1))
	for _, tag := range all[start:] {
		if len(shown) > p.n || ctx.Err() != nil {
			break
		}
		if h.mayPull(ctx, repo, oci.ByTag(tag)) {
			shown = append(shown, tag)
		}
	}
	document := TagsDocument{Name: repo.Name, Tags: shown[:min(len(shown), p.n)]}
	if len(shown) > p.n {
		document.Next = document.Tags[p.n-1]
	}
	if q.Sizes && len(document.Tags) > 0 {
		wait := sizing
		if q.Soon {
			wait = briefSizing
		}
		brief, cancel := context.WithTimeout(ctx, wait)
		defer cancel()
		document.Sizes = h.opts.Inventory.Sizes(brief, repo.ID, document.Tags)
	}
	return document, ctx.Err()
}

// namedTag returns the repository of a name, and a tag.
func (h *Handler) namedTag(ctx context.Context, name, tag string) (Repository, string, error) {
	ref, err := oci.ParseReference(tag)
	if err != nil || !ref.IsTag() {
		return Repository{}, "", invalid("a tag has at most 128 letters, digits, and . _ -")
	}
	repo, err := h.named(ctx, name)
	return repo, ref.Tag(), err
}

// absent returns the error for a blob or record that is not there, or any other error. Content that
// the client may not pull gets the same error, before any record is read, so that neither the text
// nor the time tells whether it is cached.
func absent(err error, message string) error {
	if errors.Is(err, storage.ErrNotExist) {
		return &Failure{http.StatusNotFound, "MANIFEST_UNKNOWN", message + " yet. Pull it first"}
	}
	return err
}

func uncachedTag(err error) error { return absent(err, "the tag is not cached") }

func uncachedManifest(err error) error { return absent(err, "the manifest is not cached") }

func (h *Handler) tag(ctx context.Context, r *http.Request) (any, error) {
	return h.Tag(ctx, r.PathValue("name"), r.PathValue("tag"))
}

// Tag returns a tag of a repository and the manifest that it names.
func (h *Handler) Tag(ctx context.Context, name, text string) (TagDocument, error) {
	repo, tag, err := h.namedTag(ctx, name, text)
	if err != nil {
		return TagDocument{}, err
	}
	if !h.mayPull(ctx, repo, oci.ByTag(tag)) {
		return TagDocument{}, cmp.Or(ctx.Err(), uncachedTag(storage.ErrNotExist))
	}
	known, err := h.opts.Inventory.Tag(ctx, repo.ID, tag)
	if err != nil {
		return TagDocument{}, uncachedTag(err)
	}
	return TagDocument{
		Name: repo.Name, Tag: tag, Digest: known.Descriptor.Digest, MediaType: known.Descriptor.MediaType,
		Checked: known.Checked, Since: known.Since, Pulls: documentOf(known.Pulls),
	}, nil
}

func (h *Handler) history(ctx context.Context, r *http.Request) (any, error) {
	return h.History(ctx, r.PathValue("name"), r.PathValue("tag"))
}

// History lists the manifests that a tag of a repository named before.
func (h *Handler) History(ctx context.Context, name, text string) (HistoryDocument, error) {
	repo, tag, err := h.namedTag(ctx, name, text)
	if err != nil {
		return HistoryDocument{}, err
	}
	document := HistoryDocument{Name: repo.Name, Tag: tag, History: []HistoryManifest{}}
	if !h.mayPull(ctx, repo, oci.ByTag(tag)) { // a tag that is not cached has no history either
		return document, ctx.Err()
	}
	known, err := h.opts.Inventory.History(ctx, repo.ID, tag)
	if err != nil {
		return HistoryDocument{}, err
	}
	for _, named := range known {
		if h.mayPull(ctx, repo, oci.ByDigest(named.Digest)) {
			document.History = append(document.History, HistoryManifest(named))
		}
	}
	return document, ctx.Err() // the rules may not have been asked about all
}

func (h *Handler) manifest(ctx context.Context, r *http.Request) (any, error) {
	return h.Manifest(ctx, r.PathValue("name"), r.PathValue("digest"))
}

// Manifest describes a manifest of a repository down to its layers.
func (h *Handler) Manifest(ctx context.Context, name, dgst string) (ManifestDocument, error) {
	ref, err := oci.ParseReference(dgst)
	if err != nil || ref.IsTag() {
		return ManifestDocument{}, invalid("a digest has an algorithm, a colon and hexadecimal digits, such as sha256:...")
	}
	repo, err := h.named(ctx, name)
	if err != nil {
		return ManifestDocument{}, err
	}
	if !h.mayPull(ctx, repo, ref) {
		return ManifestDocument{}, cmp.Or(ctx.Err(), uncachedManifest(storage.ErrNotExist))
	}
	known, err := h.opts.Inventory.Manifest(ctx, repo.ID, ref.Digest())
	if err != nil {
		return ManifestDocument{}, uncachedManifest(err)
	}
	h.withhold(ctx, repo, &known)
	document := ManifestDocument{
		Name: repo.Name, Digest: known.Descriptor.Digest, MediaType: known.Descriptor.MediaType, Cached: known.Cached,
		Since: known.Since, Size: known.Size, Uncounted: known.Uncounted, Layers: partsOf(known.Layers), Manifests: partsOf(known.Manifests),
		Referrers: partsOf(known.Referrers), Omitted: known.Omitted, Pulls: documentOf(known.Pulls),
	}
	if known.Image != nil {
		image := ImageDocument(*known.Image)
		document.Image = &image
	}
	if known.Config != nil {
		config := partOf(*known.Config)
		document.Config = &config
	}
	return document, ctx.Err() // the rules may not have been asked about all
}

// withhold removes from a description the parts that come from other content than the manifest, if the
// client may not have that: the properties of an image are in its configuration.
func (h *Handler) withhold(ctx context.Context, r Repository, m *inventory.Manifest) {
	if m.Image != nil && !h.opts.Names.Permits(ctx, r, Question{Action: access.GetBlob, Digest: m.Config.Descriptor.Digest}) {
		m.Image = nil
	}
	if len(m.Referrers) > 0 && !h.opts.Names.Permits(ctx, r, Question{Action: access.GetReferrers, Digest: m.Descriptor.Digest}) {
		m.Referrers = nil
	}
}
