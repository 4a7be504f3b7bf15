<?php

namespace App\Http\Controllers;

use App\Jobs\RecordAudit;
use Illuminate\Http\JsonResponse;
use Illuminate\Http\Request;
use Illuminate\Support\Str;

class JobController
{
    public function store(Request $request): JsonResponse
    {
        $given = validator($request->all(), [
            'count' => 'integer|min:1|max:1000',
            'sleep_ms' => 'integer|min:0|max:60000',
            'fail' => 'boolean',
        ])->validate();
        $ids = [];
        for ($i = 0; $i < ($given['count'] ?? 1); $i++) {
            $ids[] = $id = (string) Str::uuid();
            RecordAudit::dispatch($id, $request->user()->id, (int) ($given['sleep_ms'] ?? 0), (bool) ($given['fail'] ?? false));
        }

        return response()->json(['ids' => $ids], 202);
    }
}
