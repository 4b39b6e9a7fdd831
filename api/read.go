package api

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
)

const (
	// usualPage and maxPage are how many entries a page of a list has without n, and at most.
	usualPage = 100
	maxPage   = 1000
	// maxText bounds the parameters q, block and last, which are names or parts of them.
	maxText = 512
)

// page is the part of a list that a request asks for.
type page struct {
	n    int
	last string
}

// pageOf reads the parameters n and last, and returns an error if they or another parameter are too long.
func pageOf(query url.Values) (page, error) {
	p := page{usualPage, query.Get("last")}
	for _, name := range []string{"last", "q", "block"} {
		if len(query.Get(name)) > maxText {
			return page{}, invalid("the parameter " + name + " is too long. Give " + strconv.Itoa(maxText) + " bytes at most")
		}
	}
	if text := query.Get("n"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > maxPage {
			return page{}, invalid("the parameter n must be a number from 1 to " + strconv.Itoa(maxPage))
		}
		p.n = n
	}
	return p, nil
}

// next returns the path and query of the page behind a last entry.
func next(r *http.Request, last string) string {
	query := r.URL.Query()
	query.Set("last", last)
	return r.URL.EscapedPath() + "?" + query.Encode()
}

// named returns the repository that a request names. One that the client may not know of is as
// unknown as one that is not there.
func (h *Handler) named(ctx context.Context, r *http.Request) (Repository, error) {
	name := r.PathValue("name")
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
	return cmp.Or(ctx.Err(), error(&failure{http.StatusNotFound, "NAME_UNKNOWN", "the mirror has no such repository, or this client may not pull from it. Write its slashes as %2F, and begin with the key of its block"}))
}

func (h *Handler) repository(ctx context.Context, r *http.Request) (any, error) {
	repo, err := h.named(ctx, r)
	if err != nil {
		return nil, err
	}
	known, err := h.opts.Inventory.Repository(ctx, repo.ID)
	if err != nil {
		return nil, err
	}
	if known.Tags == 0 && known.Contents == 0 {
		return nil, &failure{http.StatusNotFound, "NAME_UNKNOWN", "nothing of the repository is cached. It is, after the first pull"}
	}
	return repositoryDocument{
		Name: repo.Name, Block: repo.Block, Tags: known.Tags, Contents: known.Contents, Size: known.Size,
		Pulls: documentOf(known.Pulls),
	}, nil
}

func (h *Handler) tags(ctx context.Context, r *http.Request) (any, error) {
	p, err := pageOf(r.URL.Query())
	if err != nil {
		return nil, err
	}
	repo, err := h.named(ctx, r)
	if err != nil {
		return nil, err
	}
	all, err := h.opts.Inventory.Tags(ctx, repo.ID)
	if err != nil {
		return nil, err
	}
	start, found := slices.BinarySearch(all, p.last)
	if found {
		start++
	}
	document := tagsDocument{Name: repo.Name, Tags: append([]string{}, all[start:min(len(all), start+p.n)]...)}
	if start+p.n < len(all) {
		document.Next = next(r, document.Tags[p.n-1])
	}
	return document, nil
}

// namedTag returns the repository and the tag that a request names.
func (h *Handler) namedTag(ctx context.Context, r *http.Request) (Repository, string, error) {
	ref, err := oci.ParseReference(r.PathValue("tag"))
	if err != nil || !ref.IsTag() {
		return Repository{}, "", invalid("a tag has letters, digits, and . _ - inside, and at most 128 of them")
	}
	repo, err := h.named(ctx, r)
	return repo, ref.Tag(), err
}

// absent returns the error for a content or record that is not there, or any other error.
func absent(err error, message string) error {
	if errors.Is(err, storage.ErrNotExist) {
		return &failure{http.StatusNotFound, "MANIFEST_UNKNOWN", message + ". It is, after the first pull"}
	}
	return err
}

func (h *Handler) tag(ctx context.Context, r *http.Request) (any, error) {
	repo, tag, err := h.namedTag(ctx, r)
	if err != nil {
		return nil, err
	}
	known, err := h.opts.Inventory.Tag(ctx, repo.ID, tag)
	if err != nil {
		return nil, absent(err, "the tag is not cached")
	}
	return tagDocument{
		Name: repo.Name, Tag: tag, Digest: known.Descriptor.Digest, MediaType: known.Descriptor.MediaType,
		Checked: known.Checked, Since: known.Since, Pulls: documentOf(known.Pulls),
	}, nil
}

func (h *Handler) history(ctx context.Context, r *http.Request) (any, error) {
	repo, tag, err := h.namedTag(ctx, r)
	if err != nil {
		return nil, err
	}
	known, err := h.opts.Inventory.History(ctx, repo.ID, tag)
	if err != nil {
		return nil, err
	}
	document := historyDocument{Name: repo.Name, Tag: tag, History: []historyManifest{}}
	for _, named := range known {
		document.History = append(document.History, historyManifest(named))
	}
	return document, nil
}

func (h *Handler) manifest(ctx context.Context, r *http.Request) (any, error) {
	ref, err := oci.ParseReference(r.PathValue("digest"))
	if err != nil || ref.IsTag() {
		return nil, invalid("a digest has an algorithm, a colon and hexadecimal digits, such as sha256:...")
	}
	repo, err := h.named(ctx, r)
	if err != nil {
		return nil, err
	}
	known, err := h.opts.Inventory.Manifest(ctx, repo.ID, ref.Digest())
	if err != nil {
		return nil, absent(err, "the manifest is not cached")
	}
	document := manifestDocument{
		Name: repo.Name, Digest: known.Descriptor.Digest, MediaType: known.Descriptor.MediaType, Cached: known.Cached,
		Since: known.Since, Size: known.Size, Layers: partsOf(known.Layers), Manifests: partsOf(known.Manifests),
		Referrers: partsOf(known.Referrers), Omitted: known.Omitted, Pulls: documentOf(known.Pulls),
	}
	if known.Image != nil {
		image := imageDocument(*known.Image)
		document.Image = &image
	}
	if known.Config != nil {
		config := partOf(*known.Config)
		document.Config = &config
	}
	return document, nil
}
