package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/internal/printable"
	"github.com/weirhq/weir/namespace/ondemand"
	"github.com/weirhq/weir/oci"
)

const (
	// maxWarmBody bounds the body of an order: a thousand images of 250 bytes each.
	maxWarmBody = 256 << 10
	// lately is how long the stream of events includes a job that has ended. It is longer than the
	// pause between two streams of a client.
	lately = 2 * time.Minute
)

// Warmer warms images by jobs.
type Warmer interface {
	// Start begins a job in the name of the sender of the request. Its errors are those of
	// [ondemand.Runner.Start].
	Start(ctx context.Context, images []ondemand.Image, platforms []ocispec.Platform) (ondemand.Job, error)
	// Jobs returns the remembered jobs, the last one first.
	Jobs() []ondemand.Job
	// Cancel ends a job. It reports false if no job has the ID.
	Cancel(id string) (ondemand.Job, bool)
}

type warmRequest struct {
	Images    []string `json:"images"`
	Platforms []string `json:"platforms,omitempty"`
}

// StartedDocument names a job that was started.
type StartedDocument struct {
	ID string `json:"id"`
}

// status is that of an answer about work that goes on.
func (StartedDocument) status() int { return http.StatusAccepted }

// JobsDocument lists jobs, the last one first.
type JobsDocument struct {
	Jobs []JobDocument `json:"jobs"`
}

// JobDocument is the state of a job.
type JobDocument struct {
	ID         string         `json:"id"`
	Kind       string         `json:"kind"`
	State      ondemand.State `json:"state"`
	By         string         `json:"by"`
	Image      string         `json:"image"` // the first one
	Started    time.Time      `json:"started"`
	Ended      time.Time      `json:"ended,omitzero"`
	Total      int            `json:"total"`
	Done       int            `json:"done"`
	Failed     int            `json:"failed"`
	Bytes      int64          `json:"bytes"`
	TotalBytes int64          `json:"totalBytes"`
	Errors     []string       `json:"errors"`
	Omitted    int            `json:"omitted"`
}

func jobDocumentOf(j ondemand.Job) JobDocument {
	return JobDocument{
		ID: j.ID, Kind: "warm", State: j.State, By: j.By, Image: j.Images[0].String(), Started: j.Started.UTC(), Ended: j.Ended.UTC(),
		Total: len(j.Images), Done: j.Warm, Failed: j.Failed, Bytes: j.Progress.Done.Bytes, TotalBytes: j.Progress.Total.Bytes,
		Errors: append([]string{}, j.Errors...), Omitted: j.Omitted,
	}
}

// warm starts a job for the images in the body.
func (h *Handler) warm(ctx context.Context, r *http.Request) (any, error) {
	var request warmRequest
	decoder := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxWarmBody))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&request); err != nil {
		return nil, invalid(`the body must be a JSON object of 256 KiB at most, such as {"images": ["docker.io/library/alpine:3"], "platforms": ["linux/amd64"]}`)
	}
	return h.Warm(ctx, request.Images, request.Platforms)
}

// Warm starts a job that brings images into the cache with all that belongs to them, of some
// platforms or, without any, of all. The client must be allowed to pull each image.
func (h *Handler) Warm(ctx context.Context, images, platforms []string) (StartedDocument, error) {
	if n := len(images); n == 0 || n > ondemand.MaxImages || len(platforms) > ondemand.MaxPlatforms {
		return StartedDocument{}, invalid("a job takes 1 to " + strconv.Itoa(ondemand.MaxImages) + " images and at most " + strconv.Itoa(ondemand.MaxPlatforms) + " platforms")
	}
	var wanted []ondemand.Image
	known := make(map[ondemand.Image]bool)
	for _, text := range images {
		image, err := h.warmable(ctx, text)
		if err != nil {
			return StartedDocument{}, err
		}
		if !known[image] { // two spellings of an image would fetch it twice at once
			known[image] = true
			wanted = append(wanted, image)
		}
	}
	var parsed []ocispec.Platform
	for _, text := range platforms {
		p, err := oci.ParsePlatform(text)
		if err != nil {
			return StartedDocument{}, invalid("not a platform such as linux/amd64 or linux/arm/v7: " + printable.Line(text, maxText))
		}
		parsed = append(parsed, p)
	}
	job, err := h.opts.Warmer.Start(ctx, wanted, parsed)
	switch {
	case errors.Is(err, ondemand.ErrTooMany):
		return StartedDocument{}, &Failure{http.StatusServiceUnavailable, "UNAVAILABLE", "too many jobs are waiting. " + Prefix + "jobs lists them. Try again later"}
	case err != nil:
		return StartedDocument{}, &Failure{http.StatusServiceUnavailable, "UNAVAILABLE", "the mirror is shutting down"}
	}
	return StartedDocument{job.ID}, nil
}

// warmable returns the image that a text names, if the client may pull it.
func (h *Handler) warmable(ctx context.Context, text string) (ondemand.Image, error) {
	image, err := oci.ParseImage(text)
	if err != nil || len(image.Name) > maxText {
		return ondemand.Image{}, invalid("not an image with a tag or a digest, such as docker.io/library/alpine:3: " + printable.Line(text, maxText))
	}
	repo, ok := h.opts.Names.Find(image.Name)
	if !ok || !h.opts.Names.Sees(ctx, repo) || !h.mayPull(ctx, repo, image.Reference) {
		if ctx.Err() != nil { // the rules may not have been asked
			return ondemand.Image{}, ctx.Err()
		}
		return ondemand.Image{}, &Failure{http.StatusNotFound, "NAME_UNKNOWN", "the mirror has no such repository, or this client may not pull the image: " + printable.Line(text, maxText) + ". Begin its name with the key of its block"}
	}
	return ondemand.Image{Name: repo.Name, Reference: image.Reference}, nil
}

func (h *Handler) jobs(ctx context.Context, _ *http.Request) (any, error) { return h.Jobs(ctx) }

// Jobs lists the remembered jobs whose images the client may all pull.
func (h *Handler) Jobs(ctx context.Context) (JobsDocument, error) {
	document := JobsDocument{Jobs: []JobDocument{}}
	for _, one := range h.opts.Warmer.Jobs() {
		if h.seesJob(ctx, one) {
			document.Jobs = append(document.Jobs, jobDocumentOf(one))
		}
	}
	return document, ctx.Err() // the rules may not have been asked about all
}

// seesJob reports whether the client may pull all images of a job.
func (h *Handler) seesJob(ctx context.Context, j ondemand.Job) bool {
	seen := make(map[string]Repository)
	return !slices.ContainsFunc(j.Images, func(image ondemand.Image) bool {
		repo, ok := seen[image.Name]
		if !ok {
			if repo, ok = h.opts.Names.Find(image.Name); !ok || !h.opts.Names.Sees(ctx, repo) {
				return true
			}
			seen[image.Name] = repo
		}
		return !h.mayPull(ctx, repo, image.Reference)
	})
}

func (h *Handler) cancelJob(ctx context.Context, r *http.Request) (any, error) {
	return h.CancelJob(ctx, r.PathValue("id"))
}

// CancelJob ends a job that the client may know of. The cached content stays.
func (h *Handler) CancelJob(ctx context.Context, id string) (JobDocument, error) {
	unknown := &Failure{http.StatusNotFound, "UNSUPPORTED", "there is no such job, or it ended too long ago. " + Prefix + "jobs lists the jobs"}
	all := h.opts.Warmer.Jobs()
	i := slices.IndexFunc(all, func(j ondemand.Job) bool { return j.ID == id })
	if i < 0 || !h.seesJob(ctx, all[i]) {
		if ctx.Err() != nil {
			return JobDocument{}, ctx.Err()
		}
		return JobDocument{}, unknown
	}
	job, ok := h.opts.Warmer.Cancel(id)
	if !ok {
		return JobDocument{}, unknown
	}
	return jobDocumentOf(job), nil
}

// current returns the jobs for a stream that have not ended, or ended recently. The rules are asked once in
// a stream about each job.
func (s *stream) current(ctx context.Context) (JobsDocument, error) {
	document := JobsDocument{Jobs: []JobDocument{}}
	for _, one := range s.h.opts.Warmer.Jobs() {
		if !one.Ended.IsZero() && time.Since(one.Ended) > lately {
			continue
		}
		sees, known := s.sees[one.ID]
		if !known {
			sees = s.h.seesJob(ctx, one)
			s.sees[one.ID] = sees
		}
		if sees {
			document.Jobs = append(document.Jobs, jobDocumentOf(one))
		}
	}
	return document, ctx.Err()
}
