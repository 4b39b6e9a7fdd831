package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/weirhq/weir/internal/buildinfo"
	"github.com/weirhq/weir/internal/hosts"
	"github.com/weirhq/weir/internal/printable"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage/maintain"
	"github.com/weirhq/weir/warm"
	"github.com/weirhq/weir/warm/remote"
)

// contentsAtOnce is how many blobs and manifests of one image are fetched at once.
// The mirror has a limit of its own for all of its downloads.
const contentsAtOnce = 4

// warmFlags are the flags of warm.
type warmFlags struct {
	files     []string
	platforms []string
	mirror    string
	client    mirrorFlags
	user      string
	jobs      int
	referrers bool
	quiet     bool
	detach    bool
}

func warmCommand(paths *[]string) *cobra.Command {
	var flags warmFlags
	cmd := &cobra.Command{
		Use:   "warm IMAGE...",
		Short: "Pull images into the cache of a running mirror",
		Long: `Pull images through a running mirror to bring them into its cache, with all platforms
and all referrers, such as signatures. Write an IMAGE as in a pull from the mirror,
with or without the mirror's address: docker.io/library/nginx:1.27, nginx,
ghcr.io/org/app@sha256:...

The mirror is the one that runs on this machine with the same configuration, or the
one at --url.

Cached content is not transferred, so it is safe to interrupt the command and run it
again. The exit code is 0 if all images are now in the cache, otherwise 1.

With --detach, the mirror warms the images by itself: the command starts a job and
prints its ID. This needs the right to change the cache. The page /activity and
GET /api/v1/jobs show the progress of the job.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if flags.detach {
				return flags.order(cmd, *paths, args)
			}
			job, err := flags.job(*paths, args, cmd.InOrStdin())
			if err != nil {
				return err
			}
			if err := job.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr()); err != nil {
				return failure{exitFailed, err}
			}
			return nil
		},
	}
	cmd.Flags().StringArrayVar(&flags.files, "file", nil, "read images from `FILE`, one per line, with comments after #; - is standard input; may be repeated")
	cmd.Flags().StringSliceVar(&flags.platforms, "platform", nil, "warm only these `PLATFORMS` of an image, such as linux/amd64,linux/arm64; may be repeated (default: all)")
	cmd.Flags().StringVar(&flags.mirror, "url", "", "`URL` of the mirror, such as http://mirror.internal:8000")
	flags.client.flags(cmd)
	cmd.Flags().StringVar(&flags.user, "username", "", "log in to the mirror as `USER`, with the password in "+clientPassword+" or from a prompt")
	cmd.Flags().IntVar(&flags.jobs, "jobs", 2, "warm `N` images at once")
	cmd.Flags().BoolVar(&flags.referrers, "referrers", true, "include the referrers of an image")
	cmd.Flags().BoolVar(&flags.quiet, "quiet", false, "print only failures")
	cmd.Flags().BoolVar(&flags.detach, "detach", false, "start a job of the mirror that warms the images, and print its ID")
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		asked := apiFlags{mirror: flags.mirror, client: flags.client, user: flags.user}
		return asked.completeImages(paths)(cmd, args, word)
	}
	return cmd
}

// warmJob is one run of the command, checked.
type warmJob struct {
	mirror  *url.URL
	named   bool // by --url
	tls     *tls.Config
	login   *url.Userinfo // nil: none
	images  []string      // as they were written
	parsed  []oci.Image
	options warm.Options
	jobs    int
	quiet   bool
}

// job checks the command line completely before anything is done.
func (f warmFlags) job(configs, args []string, stdin io.Reader) (*warmJob, error) {
	if f.jobs < 1 {
		return nil, fmt.Errorf("--jobs is %d. It must be at least 1", f.jobs)
	}
	platforms, err := parsePlatforms(f.platforms)
	if err != nil {
		return nil, fmt.Errorf("--platform: %w", err)
	}
	mirror, settings, err := f.findMirror(configs)
	if err != nil {
		return nil, err
	}
	login, err := f.login(stdin)
	if err != nil {
		return nil, err
	}
	j := &warmJob{mirror: mirror, named: f.mirror != "", login: login, tls: settings, jobs: f.jobs, quiet: f.quiet,
		options: warm.Options{Platforms: platforms, Referrers: f.referrers, Jobs: contentsAtOnce, MaxManifest: remote.MaxManifest}}
	return j, j.collect(args, f.files, stdin)
}

// collect adds the images of the command line and of lists.
func (j *warmJob) collect(images, files []string, stdin io.Reader) error {
	for _, image := range images {
		if err := j.add(image); err != nil {
			return err
		}
	}
	for _, file := range files {
		if err := j.addFile(file, stdin); err != nil {
			return err
		}
	}
	if len(j.images) == 0 {
		return errors.New("no image is given. Name images, or a list of images with --file")
	}
	return nil
}

// order has the mirror warm the images as a job, and prints its ID.
func (f warmFlags) order(cmd *cobra.Command, configs, args []string) error {
	for _, name := range []string{"jobs", "referrers", "quiet"} {
		if cmd.Flags().Changed(name) {
			return fmt.Errorf("--%s cannot be used with --detach, since the mirror decides how it runs a job", name)
		}
	}
	if _, err := parsePlatforms(f.platforms); err != nil {
		return fmt.Errorf("--platform: %w", err)
	}
	if err := f.checkInput(); err != nil {
		return err
	}
	m, err := apiFlags{mirror: f.mirror, client: f.client, user: f.user}.connect(configs, cmd.InOrStdin())
	if err != nil {
		return err
	}
	list := warmJob{mirror: m.url}
	if err := list.collect(args, f.files, cmd.InOrStdin()); err != nil {
		return err
	}
	images := make([]string, len(list.images))
	for i, image := range list.images {
		images[i] = withoutHost(image, m.url.Host)
	}
	return m.run(cmd.Context(), func(ctx context.Context) error {
		id, err := m.Warm(ctx, images, f.platforms)
		if err == nil {
			_, err = fmt.Fprintln(cmd.OutOrStdout(), printable.Line(id, maxJobID))
		}
		return err
	})
}

// maxJobID bounds the ID of a job as it is printed, in bytes.
const maxJobID = 64

// findMirror returns the URL of the mirror that is to be warmed, and how to speak TLS to
// it.
func (f warmFlags) findMirror(configs []string) (*url.URL, *tls.Config, error) {
	if f.mirror != "" {
		return parseMirror(f.mirror, f.client)
	}
	cfg, err := load(configs)
	if err != nil {
		return nil, nil, err
	}
	u, err := localURL(cfg)
	if err != nil {
		// The configuration is valid, so this is not wrong usage.
		return nil, nil, failure{exitFailed, fmt.Errorf("%w, or name the mirror with --url", err)}
	}
	settings, err := f.client.settings(cfg)
	return u, settings, err
}

// parseMirror reads the URL of a mirror, and returns how to speak TLS to it.
func parseMirror(text string, flags mirrorFlags) (*url.URL, *tls.Config, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, nil, errors.New("--url must be a URL such as http://mirror.internal:8000")
	}
	if u.User != nil { // the list of processes would show it
		return nil, nil, errors.New("--url must not contain a user or a password. Name the user with --username and set " + clientPassword)
	}
	settings, err := flags.settings(nil)
	return u, settings, err
}

// checkInput returns an error if both the images and the password come from standard input.
func (f warmFlags) checkInput() error {
	if f.user != "" && slices.Contains(f.files, "-") && os.Getenv(clientPassword) == "" {
		return errors.New("--username cannot read a password while --file reads standard input. Set " + clientPassword)
	}
	return nil
}

// login returns the login at the mirror, nil if there is none.
func (f warmFlags) login(stdin io.Reader) (*url.Userinfo, error) {
	if err := f.checkInput(); err != nil {
		return nil, err
	}
	login, err := clientLogin(f.user, stdin, os.Stderr)
	if err != nil || login == nil {
		return nil, err
	}
	return url.UserPassword(login.User, login.Password), nil
}

// addFile adds the images of a list. Its errors name the line, as editors count.
func (j *warmJob) addFile(name string, stdin io.Reader) error {
	from := name
	if name == "-" {
		from = "standard input"
	} else {
		file, err := os.Open(name)
		if err != nil {
			return fmt.Errorf("--file: %w", err)
		}
		defer file.Close()
		stdin = file
	}
	scanner := bufio.NewScanner(stdin)
	n := 0
	for scanner.Scan() {
		n++
		text := scanner.Bytes()
		if n == 1 {
			text = oci.TrimMark(text) // editors of Windows write one
		}
		line, _, _ := strings.Cut(string(text), "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if err := j.add(line); err != nil {
			return fmt.Errorf("line %d of %s: %w", n, from, err)
		}
	}
	switch err := scanner.Err(); {
	// Lists have one image a line. This is another kind of file.
	case errors.Is(err, bufio.ErrTooLong):
		return fmt.Errorf("line %d of %s is longer than %d bytes and cannot be an image", n+1, from, bufio.MaxScanTokenSize)
	case err != nil:
		return fmt.Errorf("--file %s: %w", name, err)
	}
	return nil
}

// add adds an image, once. The mirror's address may stand before its name.
func (j *warmJob) add(text string) error {
	image, err := oci.ParseImage(withoutHost(text, j.mirror.Host))
	if err != nil {
		return err
	}
	// Two spellings of one image would fetch it twice at once.
	if slices.Contains(j.parsed, image) {
		return nil
	}
	j.images, j.parsed = append(j.images, text), append(j.parsed, image)
	return nil
}

// sameHost reports whether two addresses with ports are one, to which all names
// of this machine are the same.
func sameHost(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	return a == b || errA == nil && errB == nil && portA == portB && hosts.Loopback(hostA) && hosts.Loopback(hostB)
}

// run warms all images, shows its progress, and prints the result of each.
func (j *warmJob) run(ctx context.Context, stdout, stderr io.Writer) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	version, _ := buildinfo.Version()
	mirror := remote.New(j.mirror, j.login, j.tls, "weir-warm/"+version, j.jobs*contentsAtOnce)
	defer mirror.Close()
	target := j.target()
	// One message for a mirror that is unavailable, rather than one for each image. A mirror that
	// asks for credentials may have blocks that need none.
	if err := mirror.Ping(ctx); err != nil && (j.login != nil || statusOf(err) != http.StatusUnauthorized) {
		return target.explain(err)
	}
	sum := &warmSum{ui: newProgressUI(stdout, writerUnlessQuiet(j.quiet, stderr)), quiet: j.quiet, mirror: target}
	var group errgroup.Group
	group.SetLimit(j.jobs)
	for i, image := range j.parsed {
		group.Go(func() error {
			// After a signal the images that are left are not begun.
			if ctx.Err() == nil {
				sum.warmOne(ctx, mirror.Repository(image.Name), j.images[i], image.Reference, j.options)
			}
			return nil
		})
	}
	_ = group.Wait() // failures are in the sum
	// The progress ends before the sum is printed, which belongs below it.
	sum.ui.close()
	return sum.conclude(ctx, writerUnlessQuiet(j.quiet, stdout))
}

// target returns the mirror of the job for the explanation of errors.
func (j *warmJob) target() *mirror {
	m := &mirror{url: j.mirror, isNamed: j.named}
	if j.login != nil {
		m.user = j.login.Username()
	}
	return m
}

// warmSum adds up the results of the images so far.
type warmSum struct {
	ui     progressUI
	quiet  bool
	mirror *mirror

	mu               sync.Mutex
	warmed, failed   int
	fetched, present warm.Amount
}

// warmOne warms one image and adds its result.
func (s *warmSum) warmOne(ctx context.Context, src warm.Source, image string, ref oci.Reference, options warm.Options) {
	options.Progress = s.ui.begin(image)
	result := warm.Image(ctx, src, ref, options)
	s.mu.Lock()
	s.fetched, s.present = s.fetched.Plus(result.New), s.present.Plus(result.There)
	state := "warm"
	switch {
	// The failures of an interrupted image say nothing about it.
	case ctx.Err() != nil:
		state = "unfinished"
	case len(result.Failed) > 0:
		s.failed++
	default:
		s.warmed++
	}
	s.mu.Unlock()
	text := fmt.Sprintf("%s %s: %s\n", state, image, amounts(result.New, result.There))
	for _, note := range result.Notes {
		text += fmt.Sprintf("note %s: %s\n", image, note)
	}
	// Quiet prints failures only.
	if s.quiet {
		text = ""
	}
	if ctx.Err() == nil && len(result.Failed) > 0 {
		text = ""
		for _, err := range result.Failed {
			if statusOf(err) == http.StatusUnauthorized {
				err = s.mirror.explain(err)
			}
			text += fmt.Sprintf("failed %s: %v\n", image, err)
		}
	}
	s.ui.end(image, text)
}

// conclude prints the sum, and returns the error that the command ends with.
func (s *warmSum) conclude(ctx context.Context, stdout io.Writer) error {
	fmt.Fprintf(stdout, "images: %d warm, %d failed; %s\n", s.warmed, s.failed, amounts(s.fetched, s.present))
	switch {
	// An interruption explains the images that are missing from the sum.
	case ctx.Err() != nil:
		return errors.New("interrupted. Run the command again to continue; nothing is transferred twice")
	case s.failed > 0:
		return fmt.Errorf("failed images: %d", s.failed)
	}
	return nil
}

func amounts(brought, present warm.Amount) string {
	return "new " + describe(maintain.Amount(brought)) + "; already cached " + describe(maintain.Amount(present))
}

// parsePlatforms reads the platforms of the command line.
func parsePlatforms(texts []string) ([]ocispec.Platform, error) {
	var platforms []ocispec.Platform
	for _, text := range texts {
		p, err := oci.ParsePlatform(text)
		if err != nil {
			return nil, err
		}
		platforms = append(platforms, p)
	}
	return platforms, nil
}
