package spool

import "golang.org/x/sys/windows"

func freeBytes(path string) (int64, error) {
	free, _, err := space(path)
	return free, err
}

func totalBytes(path string) (int64, error) {
	_, total, err := space(path)
	return total, err
}

func space(path string) (free, total int64, err error) {
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return 0, 0, err
	}
	var available, all uint64
	err = windows.GetDiskFreeSpaceEx(name, &available, &all, nil)
	return int64(available), int64(all), err
}
