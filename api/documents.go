package api

import (
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/namespace/inventory"
	"github.com/weirhq/weir/storage/catalog"
)

// The documents of the API. openapi.json describes their fields.

// PullsDocument counts the pulls of a repository, a tag or a manifest.
type PullsDocument struct {
	Total   int64            `json:"total"`
	Last    time.Time        `json:"last,omitzero"`
	Days    []DayDocument    `json:"days"`
	Clients []ClientDocument `json:"clients"`
}

// DayDocument counts the pulls of a day in UTC.
type DayDocument struct {
	Day   string `json:"day"`
	Pulls int64  `json:"pulls"`
}

// ClientDocument names a client, and its last pull.
type ClientDocument struct {
	Client string    `json:"client"`
	Last   time.Time `json:"last"`
}

// documentOf returns the pulls of the days that have any, the last day first.
func documentOf(p catalog.Pulls) PullsDocument {
	d := PullsDocument{Total: p.Total, Last: p.Last.UTC(), Days: []DayDocument{}, Clients: []ClientDocument{}}
	for ago, n := range p.Days {
		if n > 0 {
			day := time.Unix((p.Newest-int64(ago))*int64(24*time.Hour/time.Second), 0).UTC()
			d.Days = append(d.Days, DayDocument{day.Format(time.DateOnly), n})
		}
	}
	for _, c := range p.Clients {
		d.Clients = append(d.Clients, ClientDocument{c.Name, c.Last.UTC()})
	}
	return d
}

// RepositoriesDocument is a page of the list of repositories.
type RepositoriesDocument struct {
	Repositories []NamedDocument `json:"repositories"`
	Next         string          `json:"next,omitempty"`
	// Listing means that the repositories are not known yet, since the store is large and the
	// mirror has just started. It is set only if the query has Soon.
	Listing bool `json:"-"`
}

// NamedDocument is a repository in a list.
type NamedDocument struct {
	Name     string    `json:"name"`
	Block    string    `json:"block"`
	Tags     int       `json:"tags"`
	Size     int64     `json:"size"`
	Pulls    int64     `json:"pulls"`
	LastPull time.Time `json:"lastPull,omitzero"`
	// Counted reports whether the figures are known. They always are if the list was asked for
	// without Soon.
	Counted bool `json:"-"`
}

// RepositoryDocument has the figures of a repository.
type RepositoryDocument struct {
	Name     string        `json:"name"`
	Block    string        `json:"block"`
	Tags     int           `json:"tags"`
	Contents int           `json:"contents"`
	Size     int64         `json:"size"`
	Pulls    PullsDocument `json:"pulls"`
}

// TagsDocument is a page of the tags of a repository.
type TagsDocument struct {
	Name string   `json:"name"`
	Tags []string `json:"tags"`
	Next string   `json:"next,omitempty"`
	// Sizes are those of the images that the tags name, if they were asked for and are known.
	Sizes map[string]int64 `json:"sizes,omitempty"`
}

// TagDocument describes a tag and the manifest that it names.
type TagDocument struct {
	Name      string        `json:"name"`
	Tag       string        `json:"tag"`
	Digest    digest.Digest `json:"digest"`
	MediaType string        `json:"mediaType"`
	Checked   time.Time     `json:"checked,omitzero"`
	Since     time.Time     `json:"since,omitzero"`
	Pulls     PullsDocument `json:"pulls"`
}

// HistoryDocument has the manifests that a tag named, the last one first.
type HistoryDocument struct {
	Name    string            `json:"name"`
	Tag     string            `json:"tag"`
	History []HistoryManifest `json:"history"`
}

// HistoryManifest is a manifest that a tag named.
type HistoryManifest struct {
	Digest digest.Digest `json:"digest"`
	First  time.Time     `json:"first,omitzero"`
	Last   time.Time     `json:"last"`
}

// ManifestDocument describes a manifest down to its layers.
type ManifestDocument struct {
	Name      string         `json:"name"`
	Digest    digest.Digest  `json:"digest"`
	MediaType string         `json:"mediaType"`
	Cached    bool           `json:"cached"`
	Since     time.Time      `json:"since,omitzero"`
	Size      int64          `json:"size"`
	Uncounted int            `json:"uncounted"`
	Config    *PartDocument  `json:"config,omitempty"`
	Image     *ImageDocument `json:"image,omitempty"`
	Layers    []PartDocument `json:"layers"`
	Manifests []PartDocument `json:"manifests"`
	Referrers []PartDocument `json:"referrers"`
	Omitted   int            `json:"omitted"`
	Pulls     PullsDocument  `json:"pulls"`
}

// ImageDocument is a part of the configuration of an image.
type ImageDocument struct {
	Created  time.Time         `json:"created,omitzero"`
	Platform ocispec.Platform  `json:"platform"`
	Labels   map[string]string `json:"labels,omitempty"`
}

// PartDocument is a part of an image: content that a manifest refers to, or a referrer of it.
type PartDocument struct {
	Digest       digest.Digest     `json:"digest"`
	MediaType    string            `json:"mediaType"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Size         int64             `json:"size"`
	Platform     *ocispec.Platform `json:"platform,omitempty"`
	Cached       bool              `json:"cached"`
	Whole        int64             `json:"whole,omitzero"`
}

func partOf(p inventory.Part) PartDocument {
	d := p.Descriptor
	return PartDocument{Digest: d.Digest, MediaType: d.MediaType, ArtifactType: d.ArtifactType, Size: d.Size, Platform: d.Platform, Cached: p.Cached, Whole: p.Whole}
}

func partsOf(parts []inventory.Part) []PartDocument {
	documents := make([]PartDocument, 0, len(parts))
	for _, p := range parts {
		documents = append(documents, partOf(p))
	}
	return documents
}
