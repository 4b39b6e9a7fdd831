package client

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strconv"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/api"
	"github.com/weirhq/weir/oci"
)

const (
	// pageSize is how many entries of a list are asked for at once: the mirror reads records for
	// each of them within its time for a request.
	pageSize = 500
	// MaxList bounds the entries of a list. They take about 300 bytes each.
	MaxList = 200_000
)

// ErrTooMany says that a list has more than [MaxList] entries.
var ErrTooMany = errors.New("the list is too long")

// Repositories returns the cached repositories with a text in their names, in the order of their
// names. It returns an error that matches [ErrTooMany] if
// there are more than [MaxList].
func (c *Client) Repositories(ctx context.Context, text string) ([]api.NamedDocument, error) {
	var all []api.NamedDocument
	query := url.Values{"n": {strconv.Itoa(pageSize)}, "q": {text}}
	for {
		page, err := ask[api.RepositoriesDocument](ctx, c, call{method: http.MethodGet, path: []string{"repositories"}, query: query})
		if err != nil {
			return nil, err
		}
		all = append(all, page.Repositories...)
		if page.Next == "" || len(page.Repositories) == 0 {
			return all, nil
		}
		if len(all) > MaxList {
			return nil, fmt.Errorf("%w: more than %d repositories", ErrTooMany, MaxList)
		}
		query.Set("last", page.Repositories[len(page.Repositories)-1].Name)
	}
}

// Page is a part of the list of repositories.
type Page struct {
	Text string // in the names
	N    int    // how many at most
	Last string // the name before the first one
}

// SomeRepositories returns one page of the cached repositories, in the order of their names.
func (c *Client) SomeRepositories(ctx context.Context, page Page) ([]api.NamedDocument, error) {
	query := url.Values{"n": {strconv.Itoa(page.N)}, "q": {page.Text}, "last": {page.Last}}
	found, err := ask[api.RepositoriesDocument](ctx, c, call{method: http.MethodGet, path: []string{"repositories"}, query: query})
	return found.Repositories, err
}

// Repository returns a repository.
func (c *Client) Repository(ctx context.Context, name string) (api.RepositoryDocument, error) {
	return ask[api.RepositoryDocument](ctx, c, call{method: http.MethodGet, path: []string{"repositories", name}})
}

// Tags returns the cached tags of a repository in lexical order. It returns an error that matches
// [ErrTooMany] if there are more than [MaxList].
func (c *Client) Tags(ctx context.Context, name string) ([]string, error) {
	tags, _, err := c.allTags(ctx, name, url.Values{"n": {"1000"}})
	return tags, err
}

// SizedTags is Tags with the sizes of the images of the tags, as far as the mirror knows them.
func (c *Client) SizedTags(ctx context.Context, name string) ([]string, map[string]int64, error) {
	return c.allTags(ctx, name, url.Values{"n": {"100"}, "sizes": {"true"}})
}

func (c *Client) allTags(ctx context.Context, name string, query url.Values) (all []string, sizes map[string]int64, err error) {
	sizes = make(map[string]int64)
	for {
		page, err := ask[api.TagsDocument](ctx, c, call{method: http.MethodGet, path: []string{"repositories", name, "tags"}, query: query})
		if err != nil {
			return nil, nil, err
		}
		all = append(all, page.Tags...)
		maps.Copy(sizes, page.Sizes)
		if page.Next == "" || len(page.Tags) == 0 {
			return all, sizes, nil
		}
		if len(all) > MaxList {
			return nil, nil, fmt.Errorf("%w: %s has more than %d tags", ErrTooMany, name, MaxList)
		}
		query.Set("last", page.Tags[len(page.Tags)-1])
	}
}

// Tag returns a tag.
func (c *Client) Tag(ctx context.Context, name, tag string) (api.TagDocument, error) {
	return ask[api.TagDocument](ctx, c, call{method: http.MethodGet, path: []string{"repositories", name, "tags", tag}})
}

// History returns the manifests that a tag named before, the last one first.
func (c *Client) History(ctx context.Context, name, tag string) (api.HistoryDocument, error) {
	return ask[api.HistoryDocument](ctx, c, call{method: http.MethodGet, path: []string{"repositories", name, "tags", tag, "history"}})
}

// Manifest returns a manifest and its parts.
func (c *Client) Manifest(ctx context.Context, name string, dgst digest.Digest) (api.ManifestDocument, error) {
	return ask[api.ManifestDocument](ctx, c, call{method: http.MethodGet, path: []string{"repositories", name, "manifests", dgst.String()}})
}

// Downloads returns the running downloads.
func (c *Client) Downloads(ctx context.Context) (api.DownloadsDocument, error) {
	return ask[api.DownloadsDocument](ctx, c, call{method: http.MethodGet, path: []string{"downloads"}})
}

// Refresh makes the mirror ask its upstream about the tag of an image.
func (c *Client) Refresh(ctx context.Context, image oci.Image) (api.RefreshDocument, error) {
	body := map[string]string{"image": image.String()}
	return ask[api.RefreshDocument](ctx, c, call{method: http.MethodPost, path: []string{"refresh"}, body: body})
}

// Remove takes an image out of the cache: name:tag, name@digest, or name for all of a repository.
func (c *Client) Remove(ctx context.Context, image string) (api.RemovedDocument, error) {
	return ask[api.RemovedDocument](ctx, c, call{method: http.MethodDelete, path: []string{"images", image}})
}

// Status returns the state of the mirror and its traffic.
func (c *Client) Status(ctx context.Context) (api.Status, error) {
	return ask[api.Status](ctx, c, call{method: http.MethodGet, path: []string{"status"}})
}

// Pins lists the images that are kept from eviction.
func (c *Client) Pins(ctx context.Context) (api.PinsDocument, error) {
	return ask[api.PinsDocument](ctx, c, call{method: http.MethodGet, path: []string{"pins"}})
}

// Pin keeps an image from eviction: name:tag, or name@digest.
func (c *Client) Pin(ctx context.Context, image string) (api.PinDocument, error) {
	return ask[api.PinDocument](ctx, c, call{method: http.MethodPut, path: []string{"pins", image}})
}

// Unpin lets a pinned image be evicted again.
func (c *Client) Unpin(ctx context.Context, image string) (api.PinDocument, error) {
	return ask[api.PinDocument](ctx, c, call{method: http.MethodDelete, path: []string{"pins", image}})
}

// Warm starts a job that brings images into the cache, of some platforms or, without any, of all.
// It returns the ID of the job.
func (c *Client) Warm(ctx context.Context, images, platforms []string) (id string, err error) {
	body := map[string][]string{"images": images, "platforms": platforms}
	started, err := ask[api.StartedDocument](ctx, c, call{method: http.MethodPost, path: []string{"warm"}, body: body})
	return started.ID, err
}

// Jobs lists the last jobs.
func (c *Client) Jobs(ctx context.Context) (api.JobsDocument, error) {
	return ask[api.JobsDocument](ctx, c, call{method: http.MethodGet, path: []string{"jobs"}})
}

// CancelJob ends a job.
func (c *Client) CancelJob(ctx context.Context, id string) (api.JobDocument, error) {
	return ask[api.JobDocument](ctx, c, call{method: http.MethodDelete, path: []string{"jobs", id}})
}
