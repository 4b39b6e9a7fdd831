package oci_test

import (
	"fmt"

	"github.com/weirhq/weir/oci"
)

func ExampleParseReference() {
	for _, text := range []string{
		"1.27-alpine",
		"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		"no tag",
	} {
		ref, err := oci.ParseReference(text)
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println(ref.IsTag(), ref.Join("library/nginx"))
	}
	// Output:
	// true library/nginx:1.27-alpine
	// false library/nginx@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
	// neither a tag nor a digest: "no tag"
}

func ExampleParseImage() {
	for _, text := range []string{
		"nginx",
		"ghcr.io/org/app:1.2",
		"localhost:5000/app:1.2@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
	} {
		image, err := oci.ParseImage(text)
		if err != nil {
			panic(err)
		}
		fmt.Println(image.Name, image.Reference)
	}
	// Output:
	// nginx latest
	// ghcr.io/org/app 1.2
	// localhost:5000/app sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
}
