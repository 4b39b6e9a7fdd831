package pages

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/weirhq/weir/api"
	"github.com/weirhq/weir/clientconfig"
	"github.com/weirhq/weir/oci"
)

// overview shows whether the mirror serves, and what it does at the moment.
func (h *Handler) overview(ctx context.Context, r *http.Request) (page, error) {
	running, err := h.opts.API.Downloads(ctx)
	if err != nil {
		return page{}, err
	}
	popular, err := h.opts.API.Repositories(ctx, api.Query{Sort: "last", N: 10, Soon: true})
	unsorted := tooMany(err)
	if unsorted {
		popular, err = h.opts.API.Repositories(ctx, api.Query{N: 10, Soon: true})
	}
	if err != nil {
		return page{}, err
	}
	status, err := h.opts.API.Status(ctx)
	if err != nil {
		return page{}, err
	}
	jobs, err := h.unendedJobs(ctx)
	if err != nil {
		return page{}, err
	}
	return page{"Overview", "overview", struct {
		Status   api.Status
		Jobs     []jobRow
		Charts   []chart
		Running  api.DownloadsDocument
		Latest   []api.NamedDocument
		Unsorted bool // Latest are the first ones by name: there are too many to sort
		Listing  bool
		Blocks   []string
		Example  string
		MoreRepo bool
	}{status, jobs, dayCharts(status.Curve), running, popular.Repositories, unsorted, popular.Listing, h.blocks(ctx), h.example(ctx, h.opts.Address(r).Host), popular.Next != ""}}, nil
}

// jobRow is a job and the page of its first image.
type jobRow struct {
	api.JobDocument

	Page    string
	Unended bool
}

// allJobs returns the jobs, the last one first.
func (h *Handler) allJobs(ctx context.Context) (rows []jobRow, err error) {
	known, err := h.opts.API.Jobs(ctx)
	for _, one := range known.Jobs {
		rows = append(rows, jobRow{one, imagePage(one.Image), one.Ended.IsZero()})
	}
	return rows, err
}

// unendedJobs returns the jobs that run or wait.
func (h *Handler) unendedJobs(ctx context.Context) ([]jobRow, error) {
	rows, err := h.allJobs(ctx)
	return slices.DeleteFunc(rows, func(one jobRow) bool { return !one.Unended }), err
}

// shownJobs is how many jobs the page of the activity shows.
const shownJobs = 10

// tooMany reports whether a list is too long to be sorted.
func tooMany(err error) bool {
	told, ok := errors.AsType[*api.Failure](err)
	return ok && told.Status == http.StatusBadRequest
}

func (h *Handler) blocks(ctx context.Context) []string {
	return slices.Sorted(slices.Values(h.opts.Blocks(ctx)))
}

// example returns an image that a client can pull through the mirror.
func (h *Handler) example(ctx context.Context, host string) string {
	blocks := h.blocks(ctx)
	switch {
	case slices.Contains(blocks, "docker.io"):
		return host + "/docker.io/library/alpine:3"
	case len(blocks) > 0:
		return host + "/" + blocks[0] + "/NAME:TAG"
	}
	return ""
}

// list are the values of the list of repositories.
type list struct {
	Query        api.Query
	Repositories []api.NamedDocument
	Next         string
	Listing      bool
	Blocks       []string
	Example      string
	Problem      string
}

func (h *Handler) repositories(ctx context.Context, r *http.Request) (page, error) {
	query := r.URL.Query()
	values := list{
		Query:  api.Query{Block: query.Get("block"), Text: query.Get("q"), Sort: query.Get("sort"), N: 50, Last: query.Get("last"), Soon: true},
		Blocks: h.blocks(ctx), Example: h.example(ctx, h.opts.Address(r).Host),
	}
	document, err := h.opts.API.Repositories(ctx, values.Query)
	if tooMany(err) { // the form stays, to be filled in otherwise
		values.Problem, err = sentence(err.Error()), nil
	}
	values.Repositories, values.Next, values.Listing = document.Repositories, document.Next, document.Listing
	return page{"Repositories", "repositories", values}, err
}

// plainWord is a word that a sentence can begin with as a capitalized one. Keys, paths, addresses and
// names such as registry-mirrors have other characters.
var plainWord = regexp.MustCompile(`^([a-z]+)('s|[,:;])?(\s|$)`)

// sentence returns a message as a sentence of its own. It keeps a key, such as ui.edit_dir, and the
// name of a client, such as containerd, as they are.
func sentence(text string) string {
	if text == "" {
		return ""
	}
	if word := plainWord.FindStringSubmatch(text); word != nil && !slices.Contains(clientconfig.Clients(), word[1]) {
		text = strings.ToUpper(text[:1]) + text[1:]
	}
	if strings.Contains(text, "\n") { // it ends with lines of a file
		return text
	}
	return text + "."
}

// tagRow is a tag in the list of a repository.
type tagRow struct {
	api.TagDocument

	Size int64 // 0 if it is not known
	Gone bool  // since the list was read
}

func (h *Handler) repository(ctx context.Context, r *http.Request) (page, error) {
	name := r.URL.Query().Get("name")
	var known api.RepositoryDocument
	var tags api.TagsDocument
	unlisted := false // the client may pull from the repository, but not list its tags
	// The records of a large repository are read for a tenth of a second.
	reads, readCtx := errgroup.WithContext(ctx)
	reads.Go(func() (err error) {
		known, err = h.opts.API.Repository(readCtx, name)
		return err
	})
	reads.Go(func() (err error) {
		tags, err = h.opts.API.Tags(readCtx, name, api.TagsQuery{N: 50, Last: r.URL.Query().Get("last"), Sizes: true, Soon: true})
		if told, ok := errors.AsType[*api.Failure](err); ok && told.Status == http.StatusForbidden {
			unlisted, err = true, nil
		}
		return err
	})
	if err := reads.Wait(); err != nil {
		return page{}, err
	}
	rows := make([]tagRow, 0, len(tags.Tags))
	for _, tag := range tags.Tags {
		one, err := h.opts.API.Tag(ctx, name, tag)
		if told, ok := errors.AsType[*api.Failure](err); ok && told.Status == http.StatusNotFound {
			rows = append(rows, tagRow{TagDocument: api.TagDocument{Name: name, Tag: tag}, Gone: true})
			continue
		}
		if err != nil {
			return page{}, err
		}
		rows = append(rows, tagRow{TagDocument: one, Size: tags.Sizes[tag]})
	}
	return page{known.Name, "repository", struct {
		api.RepositoryDocument

		Rows     []tagRow
		Unlisted bool
		Next     string
		Last     string
		Host     string
	}{known, rows, unlisted, tags.Next, r.URL.Query().Get("last"), h.opts.Address(r).Host}}, nil
}

// imageValues are the values of the page of a tag or of a manifest.
type imageValues struct {
	Name      string
	Tag       *api.TagDocument // nil for a digest
	History   []api.HistoryManifest
	Manifest  *api.ManifestDocument // nil if it is not cached
	Pin       *api.PinDocument      // nil if the image is not pinned
	Platforms []string              // of an index, to warm one of them
	Pull      string
	Image     string // as changes take it
}

func (h *Handler) image(ctx context.Context, r *http.Request) (page, error) {
	query := r.URL.Query()
	values := imageValues{Name: query.Get("name")}
	dgst := query.Get("digest")
	if tag := query.Get("tag"); tag != "" {
		known, err := h.opts.API.Tag(ctx, values.Name, tag)
		if err != nil {
			return page{}, err
		}
		history, err := h.opts.API.History(ctx, values.Name, tag)
		if err != nil {
			return page{}, err
		}
		values.Tag, values.History, dgst = &known, history.History, known.Digest.String()
	}
	manifest, err := h.opts.API.Manifest(ctx, values.Name, dgst)
	told, isTold := errors.AsType[*api.Failure](err)
	switch {
	case err == nil:
		values.Manifest, values.Platforms = &manifest, platformsOf(manifest)
	case values.Tag == nil || !isTold || told.Status != http.StatusNotFound:
		return page{}, err
	}
	values.Image = values.Name + "@" + dgst
	if values.Tag != nil {
		values.Image = values.Name + ":" + values.Tag.Tag
	}
	values.Pull = h.opts.Address(r).Host + "/" + values.Image
	pins, err := h.opts.API.Pins(ctx)
	if err != nil {
		return page{}, err
	}
	if i := slices.IndexFunc(pins.Pins, func(p api.PinDocument) bool { return p.Image == values.Image }); i >= 0 {
		values.Pin = &pins.Pins[i]
	}
	return page{values.Image, "image", values}, nil
}

// platformsOf returns the platforms of an index, without the manifests that are not images, such as
// attestations.
func platformsOf(m api.ManifestDocument) (texts []string) {
	for _, one := range m.Manifests {
		if one.Platform == nil {
			continue
		}
		text := oci.FormatPlatform(*one.Platform)
		if _, err := oci.ParsePlatform(text); err == nil && one.Platform.OS != "unknown" && !slices.Contains(texts, text) {
			texts = append(texts, text)
		}
	}
	return texts
}

// imagePage returns the path of the page of an image, with more parameters.
func imagePage(image string, more ...any) string {
	parsed, err := oci.ParseImage(image)
	if err != nil {
		return "/repositories"
	}
	kind, value := "digest", parsed.Reference.String()
	if parsed.Reference.IsTag() {
		kind = "tag"
	}
	return link("/image", append([]any{"name", parsed.Name, kind, value}, more...)...)
}

// pinRow is a pin and the page of its image.
type pinRow struct {
	api.PinDocument

	Page string
}

func (h *Handler) pins(ctx context.Context, _ *http.Request) (page, error) {
	known, err := h.opts.API.Pins(ctx)
	rows := make([]pinRow, 0, len(known.Pins))
	for _, one := range known.Pins {
		rows = append(rows, pinRow{one, imagePage(one.Image)})
	}
	return page{"Pins", "pins", struct {
		Pins         []pinRow
		Bytes, Limit int64
	}{rows, known.Bytes, known.Limit}}, err
}

// activity shows jobs, the last requests and their clients.
func (h *Handler) activity(ctx context.Context, r *http.Request) (page, error) {
	query := r.URL.Query()
	values := struct {
		Filter   api.RequestFilter
		Requests []api.RequestDocument
		Clients  []api.TopClient
		Jobs     []jobRow
		Problem  string
	}{Filter: api.RequestFilter{Status: query.Get("status"), Cache: query.Get("cache"), Client: query.Get("client"), Part: query.Get("q")}}
	document, err := h.opts.API.Requests(ctx, values.Filter)
	if tooMany(err) { // the form stays, to be filled in otherwise
		values.Problem, err = sentence(err.Error()), nil
	}
	if err != nil {
		return page{}, err
	}
	values.Requests, values.Clients = document.Requests, document.Clients
	values.Jobs, err = h.allJobs(ctx)
	values.Jobs = values.Jobs[:min(len(values.Jobs), shownJobs)]
	return page{"Activity", "activity", values}, err
}

// clients shows the files of a client.
func (h *Handler) clients(ctx context.Context, r *http.Request) (page, error) {
	query := r.URL.Query()
	values := struct {
		Clients []string
		Client  string
		URL     string
		Made    clientconfig.Config
		// Elsewhere is the host of the URL, if that is not the address of the mirror: a link may lead here.
		Elsewhere string
		Problem   string
	}{Clients: clientconfig.Clients(), Client: query.Get("client"), URL: query.Get("url")}
	if values.Client == "" {
		values.Client = "docker"
	}
	here := h.opts.Address(r)
	if values.URL == "" {
		values.URL = here.String()
	}
	var err error
	if values.Made, err = h.opts.Client(ctx, values.Client, values.URL); err != nil {
		values.Problem = sentence(err.Error())
	}
	if at, err := url.Parse(values.URL); err == nil && at.Host != here.Host {
		values.Elsewhere = at.Host
	}
	return page{"Clients", "clients", values}, ctx.Err()
}

func (h *Handler) configuration(ctx context.Context, _ *http.Request) (page, error) {
	return page{"Configuration", "configuration", h.opts.Configuration(ctx)}, ctx.Err()
}
