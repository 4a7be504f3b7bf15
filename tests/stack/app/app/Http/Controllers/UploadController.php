<?php

namespace App\Http\Controllers;

use Illuminate\Http\JsonResponse;
use Illuminate\Http\Request;
use Illuminate\Http\Response;
use Illuminate\Support\Facades\DB;
use Illuminate\Support\Facades\Storage;
use Illuminate\Support\Str;
use Symfony\Component\HttpFoundation\StreamedResponse;

class UploadController
{
    public function store(Request $request): JsonResponse
    {
        validator($request->all(), ['file' => 'required|file|max:16384'])->validate();
        $file = $request->file('file');
        $id = (string) Str::uuid();
        $sha256 = hash_file('sha256', $file->getRealPath());
        $path = Storage::disk('local')->putFileAs('uploads/'.substr($id, 0, 2), $file, $id);
        if ($path === false) {
            return response()->json(['message' => 'Cannot store the file.'], 507);
        }
        DB::table('uploads')->insert([
            'id' => $id, 'user_id' => $request->user()->id, 'path' => $path, 'sha256' => $sha256,
            'original_name' => mb_substr($file->getClientOriginalName(), 0, 190), 'size' => $file->getSize(),
        ]);

        return response()->json(['id' => $id, 'path' => $path, 'sha256' => $sha256], 201);
    }

    public function show(Request $request, string $id): StreamedResponse|JsonResponse
    {
        $row = $this->row($request, $id);
        if ($row === null || ! Storage::disk('local')->exists($row->path)) {
            return response()->json(['message' => 'No such upload.'], 404);
        }

        return Storage::disk('local')->download($row->path, 'upload', ['X-Content-SHA256' => $row->sha256]);
    }

    public function destroy(Request $request, string $id): Response|JsonResponse
    {
        $row = $this->row($request, $id);
        if ($row === null) {
            return response()->json(['message' => 'No such upload.'], 404);
        }
        Storage::disk('local')->delete($row->path);
        DB::table('uploads')->where('id', $id)->delete();

        return response()->noContent();
    }

    private function row(Request $request, string $id): ?object
    {
        return DB::table('uploads')->where(['id' => $id, 'user_id' => $request->user()->id])->first();
    }
}
