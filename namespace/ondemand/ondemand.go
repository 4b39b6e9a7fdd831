// Package ondemand warms images when an operator asks for it.
//
// A [Runner] has jobs, each of which warms a list of images:
//
//	      Start           a place is free            all images are warm
//	-----------> waiting ----------------> running ---------------------> done
//	                |                         |       an image failed
//	                |                         +-------------------------> failed
//	                |                         |       Cancel, Close
//	                +-------------------------+-------------------------> cancelled
//
// The numbers of jobs that run, wait and are remembered, and their time, are bounded. Jobs end
// with the process.
package ondemand

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/internal/printable"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/warm"
)

const (
	// MaxImages and MaxPlatforms bound an order. An operator who has more images orders twice.
	MaxImages    = 1000
	MaxPlatforms = 20
	// maxUnended is how many jobs wait or run, and atOnce how many of them run.
	maxUnended = 32
	atOnce     = 2
	// maxKept is how many jobs are remembered, the last ones.
	maxKept = 100
	// imagesAtOnce is how many images of a job are warmed at once, and contentsAtOnce how many
	// blobs of an image are downloaded at once. Downloads have limits of their own too.
	imagesAtOnce   = 2
	contentsAtOnce = 3
	// longestJob is how long a job may run. An upstream that never ends a blob holds its place
	// for longestImage.
	longestJob   = 24 * time.Hour
	longestImage = 6 * time.Hour
	// maxErrors bounds the errors of a job that are kept, and maxError the bytes of each.
	maxErrors = 10
	maxError  = 500
	// idLength is that of the name of a job: enough letters that no two jobs share one.
	idLength = 12
)

var (
	// ErrTooMany says that the largest allowed number of jobs is already waiting.
	ErrTooMany = errors.New("ondemand: too many jobs wait")
	// ErrClosed says that the mirror is shutting down.
	ErrClosed = errors.New("ondemand: the mirror is shutting down")

	errTooLong      = errors.New("the job was stopped after a day. Start another one for the remaining images. Cached content is not transferred again")
	errImageTooLong = errors.New("warming the image took more than six hours and was stopped")
	errCancelled    = errors.New("ondemand: the job was cancelled")
)

// State is the state of a job.
type State string

// The states are those of the picture above.
const (
	Waiting   State = "waiting"
	Running   State = "running"
	Done      State = "done"
	Failed    State = "failed"
	Cancelled State = "cancelled"
)

// Image is an image to warm.
type Image struct {
	Name      string // the key of a block and the name below it
	Reference oci.Reference
}

// String returns the image as clients pull it.
func (i Image) String() string { return i.Reference.Join(i.Name) }

// Order is what a job has to do.
type Order struct {
	Images    []Image            // MaxImages at most
	Platforms []ocispec.Platform // wanted of an index; none means all
	By        string             // the sender of the order
}

// Repository is a repository as a job reads it.
type Repository struct {
	Source      warm.Source
	MaxManifest int64                  // the largest manifest that is served, in bytes
	Explain     func(err error) string // what clients may be told about a failure
}

// Options are the surroundings of a Runner.
type Options struct {
	// Open returns a repository of the configuration in force. Clients are told its errors.
	Open    func(name string) (Repository, error)
	Logger  *slog.Logger
	Metrics *Metrics // may be nil
}

// Job is how a job is at a moment.
type Job struct {
	ID       string
	State    State
	By       string
	Images   []Image   // must not be changed
	Started  time.Time // when it was ordered
	Ended    time.Time // zero before its end
	Warm     int       // images that are warm
	Failed   int       // images that failed
	Progress warm.Progress
	Errors   []string // the first ones
	Omitted  int      // errors that are not kept
}

// job is a job and what ends it. The mutex of its runner guards both.
type job struct {
	Job

	platforms []ocispec.Platform
	cancel    context.CancelCauseFunc
}

// Runner runs jobs. All methods may be called concurrently.
type Runner struct {
	opts   Options
	ctx    context.Context
	stop   context.CancelCauseFunc
	places chan struct{}
	ended  sync.WaitGroup

	mu   sync.Mutex
	jobs []*job // the oldest first
}

// New returns a Runner that works until its Close.
func New(opts Options) *Runner {
	ctx, stop := context.WithCancelCause(context.Background())
	return &Runner{opts: opts, ctx: ctx, stop: stop, places: make(chan struct{}, atOnce)}
}

// Close cancels all jobs, and waits for their ends.
func (r *Runner) Close() {
	r.mu.Lock()
	r.stop(errCancelled)
	r.mu.Unlock()
	r.ended.Wait()
}

// Start begins a job. It returns ErrTooMany if too many jobs wait, or ErrClosed.
func (r *Runner) Start(order Order) (Job, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	unended := 0
	for _, j := range r.jobs {
		if j.Ended.IsZero() {
			unended++
		}
	}
	switch {
	case r.ctx.Err() != nil:
		return Job{}, ErrClosed
	case unended >= maxUnended:
		return Job{}, ErrTooMany
	}
	if len(r.jobs) >= maxKept {
		oldest := slices.IndexFunc(r.jobs, func(j *job) bool { return !j.Ended.IsZero() })
		r.jobs = slices.Delete(r.jobs, oldest, oldest+1)
	}
	ctx, cancel := context.WithCancelCause(r.ctx)
	j := &job{
		Job:       Job{ID: strings.ToLower(rand.Text()[:idLength]), State: Waiting, By: order.By, Images: order.Images, Started: time.Now()},
		platforms: order.Platforms, cancel: cancel,
	}
	r.jobs = append(r.jobs, j)
	r.opts.Metrics.moved("", Waiting)
	r.ended.Go(func() { r.run(ctx, j) })
	return j.Job, nil
}

// Jobs returns the remembered jobs, the last one first.
func (r *Runner) Jobs() []Job {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]Job, 0, len(r.jobs))
	for _, j := range slices.Backward(r.jobs) {
		all = append(all, j.snapshot())
	}
	return all
}

// Cancel ends a job, unless it has ended. It reports false if no job has the ID.
func (r *Runner) Cancel(id string) (Job, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.jobs, func(j *job) bool { return j.ID == id })
	if i < 0 {
		return Job{}, false
	}
	j := r.jobs[i]
	r.move(j, Cancelled)
	j.cancel(errCancelled)
	return j.snapshot(), true
}

// snapshot returns the job as it is now. The caller holds the mutex.
func (j *job) snapshot() Job {
	is := j.Job
	is.Errors = slices.Clone(j.Errors)
	return is
}

// move gives a job another state, unless it has ended. The caller holds the mutex.
func (r *Runner) move(j *job, to State) {
	if !j.Ended.IsZero() {
		return
	}
	r.opts.Metrics.moved(j.State, to)
	if j.State = to; to != Running {
		j.Ended = time.Now()
	}
}

// run works on a job when a place is free.
func (r *Runner) run(ctx context.Context, j *job) {
	defer j.cancel(nil)
	select {
	case r.places <- struct{}{}:
		r.work(ctx, j)
		<-r.places
	case <-ctx.Done():
	}
	r.mu.Lock()
	switch {
	case errors.Is(context.Cause(ctx), errCancelled):
		r.move(j, Cancelled)
	case j.Failed > 0 || j.Warm < len(j.Images):
		r.move(j, Failed)
	default:
		r.move(j, Done)
	}
	is := j.snapshot()
	r.mu.Unlock()
	r.opts.Logger.Info("a job that warms images ended", "job", is.ID, "state", is.State, "by", is.By,
		"images", len(is.Images), "warm", is.Warm, "failed", is.Failed, "bytes", is.Progress.Done.Bytes)
}

// work warms the images of a job.
func (r *Runner) work(ctx context.Context, j *job) {
	ctx, stop := context.WithTimeoutCause(ctx, longestJob, errTooLong)
	defer stop()
	r.mu.Lock()
	r.move(j, Running)
	r.mu.Unlock()
	r.opts.Logger.Info("a job started to warm images", "job", j.ID, "by", j.By, "images", len(j.Images), "first", j.Images[0].String())
	next := make(chan Image)
	var workers sync.WaitGroup
	for range imagesAtOnce {
		workers.Go(func() {
			for image := range next {
				r.warm(ctx, j, image)
			}
		})
	}
	for _, image := range j.Images {
		select {
		case next <- image:
		case <-ctx.Done():
		}
	}
	close(next)
	workers.Wait()
	if errors.Is(context.Cause(ctx), errTooLong) {
		r.mu.Lock()
		defer r.mu.Unlock()
		j.note(errTooLong.Error())
	}
}

// warm warms one image of a job.
func (r *Runner) warm(ctx context.Context, j *job, image Image) {
	if ctx.Err() != nil {
		return
	}
	limited, stop := context.WithTimeoutCause(ctx, longestImage, errImageTooLong)
	defer stop()
	repo, err := r.opts.Open(image.Name)
	result := warm.Result{Failed: []error{err}}
	if err == nil {
		var before warm.Progress
		result = warm.Image(limited, repo.Source, image.Reference, warm.Options{
			Platforms: j.platforms, Referrers: true, Jobs: contentsAtOnce, MaxManifest: repo.MaxManifest,
			Progress: func(now warm.Progress) {
				r.advance(j, before, now)
				before = now
			},
		})
	} else {
		repo.Explain = error.Error
	}
	if ctx.Err() != nil {
		return // the failures only follow from the end of the job
	}
	if err := result.Err(); err != nil {
		r.opts.Logger.Warn("cannot warm an image of a job", "job", j.ID, "image", image.String(), "error", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(result.Failed) == 0 {
		j.Warm++
		return
	}
	j.Failed++
	for _, err := range result.Failed {
		j.note(image.String() + ": " + repo.Explain(err))
	}
}

// advance adds the progress of an image to that of its job.
func (r *Runner) advance(j *job, before, now warm.Progress) {
	r.mu.Lock()
	defer r.mu.Unlock()
	add := func(to *warm.Amount, before, now warm.Amount) {
		to.Objects += now.Objects - before.Objects
		to.Bytes += now.Bytes - before.Bytes
	}
	add(&j.Progress.Done, before.Done, now.Done)
	add(&j.Progress.Total, before.Total, now.Total)
}

// note keeps the text of an error, if there is room. The caller holds the mutex.
func (j *job) note(text string) {
	if len(j.Errors) == maxErrors {
		j.Omitted++
		return
	}
	j.Errors = append(j.Errors, printable.Line(text, maxError))
}
