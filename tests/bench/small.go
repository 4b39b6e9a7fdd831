package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// smallImages is how many images of smallLayers tiny layers are pulled, each from a
	// repository of its own.
	smallImages, smallLayers = 2000, 8
	// smallClients is how many of them are pulled at once.
	smallClients = 8
	// tinySize is the size of a tiny layer.
	tinySize = 1024
)

// smallObjects measures the storing of many small blobs.
func smallObjects(ctx context.Context, m *mirror, up *upstream) ([]row, error) {
	images := make([][]string, smallImages)
	for i := range images {
		repository := fmt.Sprintf("/v2/bench/app%d/", i)
		images[i] = append(images[i], strings.Replace(up.addManifest(), "/v2/bench/app/", repository, 1))
		for range smallLayers {
			images[i] = append(images[i], strings.Replace(up.add(tinySize), "/v2/bench/app/", repository, 1))
		}
	}
	began, before := time.Now(), m.cpu()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(smallClients)
	for _, image := range images {
		group.Go(func() error {
			for _, path := range image {
				if err := drain(ctx, "http://"+m.addr+path); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	// The manifests of addManifest are one blob.
	objects := float64(smallImages * smallLayers)
	took, used := time.Since(began), m.cpu().minus(before, objects)
	peak, _ := m.daemon().memory()
	return []row{
		{fmt.Sprintf("%d images of %d layers of 1 KiB, cold, %d at once: contents stored per second", smallImages, smallLayers, smallClients), fmt.Sprintf("%.0f", objects/took.Seconds())},
		{"processor time of the mirror for each", fmt.Sprintf("%.2f ms", 1000*used.total())},
		{"peak of its resident memory", fmt.Sprintf("%d MiB", peak>>20)},
	}, nil
}

// drain reads an answer.
func drain(ctx context.Context, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, answer.Status)
	}
	_, err = io.Copy(io.Discard, answer.Body)
	return err
}
