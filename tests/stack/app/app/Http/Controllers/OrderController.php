<?php

namespace App\Http\Controllers;

use Illuminate\Http\JsonResponse;
use Illuminate\Http\Request;
use Illuminate\Support\Facades\DB;
use Illuminate\Support\Str;

class OrderController
{
    public function show(int $id): JsonResponse
    {
        $row = DB::table('orders')->find($id);

        return $row === null ? response()->json(['message' => 'No such order.'], 404) : response()->json($row);
    }

    public function store(Request $request): JsonResponse
    {
        $given = validator($request->all(), [
            'quantity' => 'required|integer|min:1|max:100000',
            'unit_price' => 'required|numeric|min:0|max:99999',
            'note' => 'nullable|string|max:2000',
            'reference' => 'nullable|string|max:26|unique:orders,reference',
        ])->validate();
        $reference = $given['reference'] ?? (string) Str::ulid();
        $id = DB::transaction(static fn () => DB::table('orders')->insertGetId([
            'user_id' => $request->user()->id,
            'reference' => $reference,
            'quantity' => $given['quantity'],
            'unit_price' => $given['unit_price'],
            'tax_rate' => '0.2000',
            'note' => $given['note'] ?? null,
        ]));

        return response()->json(['id' => $id, 'reference' => $reference], 201);
    }
}
