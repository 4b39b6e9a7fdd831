package api

import (
	"context"
	"net/http"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/access"
	"github.com/weirhq/weir/storage/download"
)

// Downloads knows the downloads that have begun and not ended.
type Downloads interface {
	// Running returns their states, the oldest first.
	Running() []download.State
}

// DownloadsDocument lists the running downloads.
type DownloadsDocument struct {
	Downloads []DownloadDocument `json:"downloads"`
	Omitted   int                `json:"omitted"`
}

// DownloadDocument is a running download.
type DownloadDocument struct {
	Name    string            `json:"name"`
	Block   string            `json:"block"`
	Digest  digest.Digest     `json:"digest"`
	State   download.Activity `json:"state"`
	Started time.Time         `json:"started"`
	Source  string            `json:"source,omitempty"`
	Offset  int64             `json:"offset"`
	Rate    int64             `json:"rate"` // bytes a second
	Size    *int64            `json:"size,omitempty"`
	Readers int               `json:"readers"`
}

func (h *Handler) downloads(ctx context.Context, _ *http.Request) (any, error) {
	return h.Downloads(ctx)
}

// Downloads lists the downloads of the blobs that the client may pull.
func (h *Handler) Downloads(ctx context.Context) (DownloadsDocument, error) {
	return h.downloadsOf(ctx, h.opts.Downloads.Running())
}

// downloadsOf lists those of some downloads whose blobs the client may pull.
func (h *Handler) downloadsOf(ctx context.Context, running []download.State) (DownloadsDocument, error) {
	document := DownloadsDocument{Downloads: []DownloadDocument{}}
	for _, s := range running {
		repo, ok := h.opts.Names.Of(s.Repository)
		if !ok || !h.opts.Names.Sees(ctx, repo) || !h.opts.Names.Permits(ctx, repo, Question{Action: access.GetBlob, Digest: s.Digest}) {
			continue
		}
		if len(document.Downloads) == maxPage {
			document.Omitted++
			continue
		}
		one := DownloadDocument{
			Name: repo.Name, Block: repo.Block, Digest: s.Digest, State: s.Activity, Started: s.Started.UTC(),
			Source: s.Origin, Offset: s.Offset, Rate: s.Rate, Readers: s.Clients,
		}
		if s.Size >= 0 {
			one.Size = &s.Size
		}
		document.Downloads = append(document.Downloads, one)
	}
	return document, ctx.Err() // the rules may not have been asked about all
}
