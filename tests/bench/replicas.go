package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	replicaCount  = 3
	replicaRounds = 7 // of the fleet and of the single mirror, by turns
	imageClients  = 96
	imageLayers   = 8
	imageLayer    = 8 * mib
)

const clusterTables = `[cache.redis]
url = "redis://%s/0"
[cluster]
secret = "a secret that all replicas of the fleet have"
peer_port = 0
`

// Bytes come from the mirrors, not from the bucket.
const bucketTables = `[global]
enable_blob_redirect = false
[blob_store.s3]
endpoint = %q
bucket = "mirror"
region = "us-east-1"
access_key_id = "bench"
secret_key = "bench-secret"
key_prefix = %q
`

// coldImage compares three replicas with a single mirror, each with a disk of its own, and with
// one bucket.
func coldImage(ctx context.Context, m *mirror, up *upstream) ([]row, error) {
	dir := filepath.Dir(filepath.Dir(m.config))
	redis, err := startRedis(ctx, dir)
	if errors.Is(err, exec.ErrNotFound) {
		return []row{{"cold image through replicas", "not measured: redis-server is not installed"}}, nil
	}
	if err != nil {
		return nil, err
	}
	defer redis.stop()
	bucket, err := startBucket(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer bucket.stop()
	cluster := fmt.Sprintf(clusterTables, redis.addr)
	disks, err := compareReplicas(ctx, filepath.Join(dir, "disks"), up, "", cluster)
	if err != nil {
		return nil, err
	}
	of := func(prefix string) string { return fmt.Sprintf(bucketTables, "http://"+bucket.addr, prefix) }
	shared, err := compareReplicas(ctx, filepath.Join(dir, "bucket"), up, of("one"), of("fleet")+cluster)
	for _, r := range shared {
		disks = append(disks, row{r.label + ", with a bucket", r.figure})
	}
	return disks, err
}

// compareReplicas lets many clients, spread over three replicas, pull an image that none of them
// has, layer after layer, and does the same with a single mirror.
func compareReplicas(ctx context.Context, dir string, up *upstream, single, fleet string) ([]row, error) {
	var alone, together imagePulls
	for n := range 1 + replicaCount {
		pulls, tables := &alone, single
		if n > 0 {
			pulls, tables = &together, fleet
		}
		m, err := startMirror(ctx, filepath.Join(dir, strconv.Itoa(n)), up.url, tables)
		if err != nil {
			return nil, err
		}
		defer m.stop()
		pulls.mirrors = append(pulls.mirrors, m)
	}
	var times, cpus []float64
	for round := range replicaRounds + 1 {
		one, err := alone.round(ctx, up)
		if err != nil {
			return nil, err
		}
		three, err := together.round(ctx, up)
		if err != nil {
			return nil, err
		}
		if round > 0 { // in the first one connections are made
			times, cpus = append(times, three.seconds/one.seconds), append(cpus, three.cpu/one.cpu)
		}
	}
	return []row{
		{"cold image, 96 clients: through one mirror", alone.median()},
		{"cold image, 96 clients: through three replicas", together.median()},
		{"cold image, 96 clients: three replicas, relative to one mirror", fmt.Sprintf("%.2f times the time, %.2f times the CPU", median(times), median(cpus))},
	}, nil
}

// imagePulls are rounds of cold pulls through some mirrors.
type imagePulls struct {
	mirrors []*mirror
	rounds  []imagePull
}

// imagePull is one round.
type imagePull struct{ seconds, cpu float64 }

func (p *imagePulls) median() string {
	var seconds, cpu []float64
	for _, r := range p.rounds[1:] {
		seconds, cpu = append(seconds, r.seconds), append(cpu, r.cpu)
	}
	return fmt.Sprintf("%.2f s, %.2f s of CPU", median(seconds), median(cpu))
}

func (p *imagePulls) usage() (seconds float64) {
	for _, m := range p.mirrors {
		seconds += m.cpu().total()
	}
	return seconds
}

// round lets all clients pull a new image.
func (p *imagePulls) round(ctx context.Context, up *upstream) (imagePull, error) {
	var layers []string
	for range imageLayers {
		layers = append(layers, up.add(imageLayer))
	}
	before, start := p.usage(), time.Now()
	var clients errgroup.Group
	for n := range imageClients {
		clients.Go(func() error {
			for _, layer := range layers {
				if err := p.mirrors[n%len(p.mirrors)].pull(ctx, layer); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := clients.Wait()
	this := imagePull{time.Since(start).Seconds(), p.usage() - before}
	p.rounds = append(p.rounds, this)
	return this, err
}

// server is a process that mirrors use.
type server struct {
	daemon
	addr string
}

func startRedis(ctx context.Context, dir string) (*server, error) {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, err
	}
	return startServer(dir, func(addr *net.TCPAddr) *exec.Cmd {
		return exec.CommandContext(ctx, path, "--bind", "127.0.0.1", "--port", strconv.Itoa(addr.Port), "--save", "", "--appendonly", "no", "--dir", dir)
	})
}

// startBucket runs versitygw with a bucket that is called mirror.
func startBucket(ctx context.Context, dir string) (*server, error) {
	build := exec.CommandContext(ctx, "go", "tool", "-n", "versitygw")
	build.Dir, build.Stderr = "tests/tools/s3", os.Stderr
	path, err := build.Output()
	if err != nil {
		return nil, fmt.Errorf("building versitygw: %w", err)
	}
	objects, metadata := filepath.Join(dir, "objects"), filepath.Join(dir, "metadata")
	if err := errors.Join(os.MkdirAll(filepath.Join(objects, "mirror"), 0o700), os.MkdirAll(metadata, 0o700)); err != nil {
		return nil, err
	}
	return startServer(dir, func(addr *net.TCPAddr) *exec.Cmd {
		return exec.CommandContext(ctx, strings.TrimSpace(string(path)), "--access", "bench", "--secret", "bench-secret",
			"--port", addr.String(), "--quiet", "--keep-alive", "posix", "--sidecar", metadata, objects)
	})
}

// startServer runs a program at a free address until it answers there.
func startServer(dir string, program func(*net.TCPAddr) *exec.Cmd) (*server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := listener.Addr().(*net.TCPAddr)
	listener.Close()
	s := &server{daemon{program(addr)}, addr.String()}
	s.cmd.Dir = dir
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if conn, err := net.Dial("tcp", s.addr); err == nil {
			return s, conn.Close()
		}
	}
	s.stop()
	return nil, fmt.Errorf("%s does not answer", s.cmd.Path)
}
