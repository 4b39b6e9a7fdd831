package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

const (
	// pagedObjects and pagedTags are what the mirror has, in pagedRepositories. One repository
	// has manyTags of the tags.
	pagedObjects, pagedTags, pagedRepositories = 1_000_000, 100_000, 2000
	manyTags                                   = 20_000
	// linksOfInode is how many blobs share a file: a filesystem limits its hard links.
	linksOfInode = 50_000
	// viewsOfPage is how often each page is read, for a median.
	viewsOfPage = 21
)

// pagesOfMany measures the pages of a mirror with many blobs and tags.
func pagesOfMany(ctx context.Context, m *mirror, _ *upstream) ([]row, error) {
	m.stop()
	manifest, err := fillPages(filepath.Join(filepath.Dir(m.config), "data"))
	if err != nil {
		return nil, err
	}
	if err := m.start(ctx); err != nil {
		return nil, err
	}
	rows := []row{{fmt.Sprintf("%d contents, %d tags, %d repositories: a page, the first time and the median of %d", pagedObjects, pagedTags, pagedRepositories, viewsOfPage), ""}}
	for _, path := range []string{
		"/", "/repositories", "/repositories?sort=last", "/repositories?sort=size", "/repositories?q=app1", "/repository?name=bench/app1",
		"/repository?name=bench/app0", "/image?name=bench/app0&tag=t00000", "/image?name=bench/app1&digest=" + manifest,
		"/pins", "/activity", "/upstreams", "/clients", "/configuration",
	} {
		figure, err := viewPage(ctx, "http://"+m.addr+path)
		if err != nil {
			return nil, err
		}
		rows = append(rows, row{"`" + path[:min(len(path), 40)] + "`", figure})
	}
	return rows, nil
}

// viewPage reads a page again and again, and returns how long that took.
func viewPage(ctx context.Context, url string) (string, error) {
	var took []time.Duration
	for range viewsOfPage {
		began := time.Now()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return "", err
		}
		req.Header.Set("Accept", "text/html")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return "", err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		if err := errors.Join(err, resp.Body.Close()); err != nil {
			return "", err
		}
		if resp.StatusCode != http.StatusOK {
			return "", fmt.Errorf("%s: %s", url, resp.Status)
		}
		took = append(took, time.Since(began))
	}
	first := took[0]
	slices.Sort(took)
	return fmt.Sprintf("%s, %s", milliseconds(first), milliseconds(took[len(took)/2])), nil
}

func milliseconds(d time.Duration) string { return fmt.Sprintf("%.1f ms", d.Seconds()*1000) }

// fillPages makes blobs and tags as a mirror would have left them, and returns the digest of a
// manifest that all tags name.
func fillPages(data string) (manifest string, err error) {
	body := []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[]}`)
	sum := sha256.Sum256(body)
	name := hex.EncodeToString(sum[:])
	if err := writeIn(blobPath(data, name), body); err != nil {
		return "", err
	}
	descriptor := fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:%s","size":%d`, name, len(body))
	for i := range pagedRepositories {
		if err := writeIn(linkPath(data, i, name), []byte(descriptor+`,"proven":"2026-01-01T00:00:00Z"}`)); err != nil {
			return "", err
		}
	}
	tag := []byte(`{"descriptor":` + descriptor + `},"checked":"2026-01-01T00:00:00Z","since":"2026-01-01T00:00:00Z"}`)
	for i := range pagedTags {
		repository := 0
		if i >= manyTags {
			repository = i % pagedRepositories
		}
		if err := writeIn(filepath.Join(repositoryPath(data, repository), "_tags", fmt.Sprintf("t%05d", i)), tag); err != nil {
			return "", err
		}
	}
	return "sha256:" + name, fillContents(data)
}

// fillContents makes the blobs, and a link to each. Contents share files, which saves space
// that nothing here reads.
func fillContents(data string) error {
	shared := ""
	for i := range pagedObjects {
		sum := sha256.Sum256([]byte(strconv.Itoa(i)))
		name := hex.EncodeToString(sum[:])
		path := blobPath(data, name)
		var err error
		if i%linksOfInode == 0 {
			shared, err = path, writeIn(path, []byte("1"))
		} else {
			err = linkIn(shared, path)
		}
		link := fmt.Sprintf(`{"mediaType":"","digest":"sha256:%s","size":1,"proven":"2026-01-01T00:00:00Z"}`, name)
		if err := errors.Join(err, writeIn(linkPath(data, i%pagedRepositories, name), []byte(link))); err != nil {
			return err
		}
	}
	return nil
}

func blobPath(data, name string) string {
	return filepath.Join(data, "blobs", "sha256", name[:2], name)
}

func repositoryPath(data string, i int) string {
	return filepath.Join(data, "records", "bench", fmt.Sprintf("app%d", i))
}

func linkPath(data string, i int, name string) string {
	return filepath.Join(repositoryPath(data, i), "_links", "sha256", name)
}

// writeIn writes a file, and its directory if that is missing.
func writeIn(path string, content []byte) error {
	err := os.WriteFile(path, content, 0o600)
	if errors.Is(err, os.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(path), 0o750); err == nil {
			err = os.WriteFile(path, content, 0o600)
		}
	}
	return err
}

// linkIn makes a further name of a file, and its directory if that is missing.
func linkIn(from, to string) error {
	err := os.Link(from, to)
	if errors.Is(err, os.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(to), 0o750); err == nil {
			err = os.Link(from, to)
		}
	}
	return err
}
