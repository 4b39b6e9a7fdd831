package api

import (
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/namespace/inventory"
	"github.com/weirhq/weir/storage/catalog"
)

// The documents of the API. openapi.json describes their fields.

type pullsDocument struct {
	Total   int64            `json:"total"`
	Last    time.Time        `json:"last,omitzero"`
	Days    []dayDocument    `json:"days"`
	Clients []clientDocument `json:"clients"`
}

type dayDocument struct {
	Day   string `json:"day"`
	Pulls int64  `json:"pulls"`
}

type clientDocument struct {
	Client string    `json:"client"`
	Last   time.Time `json:"last"`
}

// documentOf returns the pulls of the days that have any, the last day first.
func documentOf(p catalog.Pulls) pullsDocument {
	d := pullsDocument{Total: p.Total, Last: p.Last.UTC(), Days: []dayDocument{}, Clients: []clientDocument{}}
	for ago, n := range p.Days {
		if n > 0 {
			day := time.Unix((p.Newest-int64(ago))*int64(24*time.Hour/time.Second), 0).UTC()
			d.Days = append(d.Days, dayDocument{day.Format(time.DateOnly), n})
		}
	}
	for _, c := range p.Clients {
		d.Clients = append(d.Clients, clientDocument{c.Name, c.Last.UTC()})
	}
	return d
}

type repositoriesDocument struct {
	Repositories []namedDocument `json:"repositories"`
	Next         string          `json:"next,omitempty"`
}

type namedDocument struct {
	Name     string    `json:"name"`
	Block    string    `json:"block"`
	Tags     int       `json:"tags"`
	Size     int64     `json:"size"`
	Pulls    int64     `json:"pulls"`
	LastPull time.Time `json:"lastPull,omitzero"`
}

type repositoryDocument struct {
	Name     string        `json:"name"`
	Block    string        `json:"block"`
	Tags     int           `json:"tags"`
	Contents int           `json:"contents"`
	Size     int64         `json:"size"`
	Pulls    pullsDocument `json:"pulls"`
}

type tagsDocument struct {
	Name string   `json:"name"`
	Tags []string `json:"tags"`
	Next string   `json:"next,omitempty"`
}

type tagDocument struct {
	Name      string        `json:"name"`
	Tag       string        `json:"tag"`
	Digest    digest.Digest `json:"digest"`
	MediaType string        `json:"mediaType"`
	Checked   time.Time     `json:"checked,omitzero"`
	Since     time.Time     `json:"since,omitzero"`
	Pulls     pullsDocument `json:"pulls"`
}

type historyDocument struct {
	Name    string            `json:"name"`
	Tag     string            `json:"tag"`
	History []historyManifest `json:"history"`
}

type historyManifest struct {
	Digest digest.Digest `json:"digest"`
	First  time.Time     `json:"first,omitzero"`
	Last   time.Time     `json:"last"`
}

type manifestDocument struct {
	Name      string         `json:"name"`
	Digest    digest.Digest  `json:"digest"`
	MediaType string         `json:"mediaType"`
	Cached    bool           `json:"cached"`
	Since     time.Time      `json:"since,omitzero"`
	Size      int64          `json:"size"`
	Config    *partDocument  `json:"config,omitempty"`
	Image     *imageDocument `json:"image,omitempty"`
	Layers    []partDocument `json:"layers"`
	Manifests []partDocument `json:"manifests"`
	Referrers []partDocument `json:"referrers"`
	Omitted   int            `json:"omitted"`
	Pulls     pullsDocument  `json:"pulls"`
}

type imageDocument struct {
	Created  time.Time         `json:"created,omitzero"`
	Platform ocispec.Platform  `json:"platform"`
	Labels   map[string]string `json:"labels,omitempty"`
}

type partDocument struct {
	Digest       digest.Digest     `json:"digest"`
	MediaType    string            `json:"mediaType"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Size         int64             `json:"size"`
	Platform     *ocispec.Platform `json:"platform,omitempty"`
	Cached       bool              `json:"cached"`
}

func partOf(p inventory.Part) partDocument {
	d := p.Descriptor
	return partDocument{Digest: d.Digest, MediaType: d.MediaType, ArtifactType: d.ArtifactType, Size: d.Size, Platform: d.Platform, Cached: p.Cached}
}

func partsOf(parts []inventory.Part) []partDocument {
	documents := make([]partDocument, 0, len(parts))
	for _, p := range parts {
		documents = append(documents, partOf(p))
	}
	return documents
}
